"""Deadlines of an operation by phase: a clone may take minutes, a status may not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import Side
from tests.integration.edge.scene import edge
from tests.support.raw_upstream import Peer
from tests.support.sides import StubSide, client, get, live, migration

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"


def quick(sides: dict[Side, StubSide], **deadlines: Any) -> dict[str, Any]:
    """The migration with deadlines on its read."""
    content = live(migration(sides), 50)
    content["operations"]["item.get"] |= deadlines
    return content


async def hang(peer: Peer) -> None:
    await peer.receive_request()
    await peer.wait_closed()


async def begin_and_hang(peer: Peer) -> None:
    await peer.receive_request()
    await peer.send(HEAD + b"half")
    await peer.wait_closed()


@pytest.mark.parametrize("deadlines", [{"deadline_s": 0.3}, {"deadlines": {"first_byte_s": 0.3}}], ids=str)
async def test_a_side_that_says_nothing_is_504(
    tmp_path: Path, sides: dict[Side, StubSide], deadlines: dict[str, Any]
) -> None:
    for side in sides.values():
        side.script = hang
    async with edge(tmp_path, sides, quick(sides, **deadlines)) as plane, client(plane.port) as c:
        answer = await c.ask(get("/items/1", "x-key: a"))
        assert (answer.status, answer.json()["code"], answer.json()["retryable"]) == (504, "upstream_timeout", True)


@pytest.mark.parametrize("deadlines", [{"deadline_s": 0.3}, {"deadlines": {"between_bytes_s": 0.3}}], ids=str)
async def test_an_answer_that_stalls_is_broken_off(
    tmp_path: Path, sides: dict[Side, StubSide], deadlines: dict[str, Any]
) -> None:
    for side in sides.values():
        side.script = begin_and_hang
    async with edge(tmp_path, sides, quick(sides, **deadlines)) as plane, client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await c.reader.readexactly(10_000)


async def test_an_operation_without_a_short_deadline_waits(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    release = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.receive_request()
        await release.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    for side in sides.values():
        side.script = slow
    async with (
        edge(tmp_path, sides, quick(sides, deadline_s=0.2)) as plane,
        client(plane.port) as patient,
        client(plane.port) as short,
    ):
        await patient.send(b"PUT /items/1 HTTP/1.1\r\nhost: a\r\nx-key: a\r\ncontent-length: 0\r\n\r\n")
        assert (await short.ask(get("/items/1", "x-key: a"))).status == 504
        release.set()
        assert (await patient.answer()).status == 200
