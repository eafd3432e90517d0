"""Who is waited for too long is named: the side by phase, or the client, who can discredit no side by being slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import Side
from gateway.upstream import SideUpstream
from tests.integration.edge.scene import Edge, edge, outcomes
from tests.support.raw_upstream import Peer, Script
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until


def hasty(sides: dict[Side, StubSide]) -> dict[str, Any]:
    """Every operation has a second for the whole exchange."""
    content = live(migration(sides), 50)
    operations = {name: {**operation, "deadline_s": 1} for name, operation in content["operations"].items()}
    return {**content, "operations": operations}


@pytest.fixture
async def plane(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    async with edge(tmp_path, sides, hasty(sides)) as running:
        yield running


def both(plane: Edge, script: Script) -> None:
    for side in plane.sides.values():
        side.script = script


def ejections(plane: Edge) -> int:
    upstreams = [side for side in plane.plane.sides.values() if isinstance(side, SideUpstream)]
    assert len(upstreams) == 2
    return sum(upstream.stats().ejections for upstream in upstreams)


async def test_a_side_that_says_nothing_is_504(plane: Edge) -> None:
    async def silent(peer: Peer) -> None:
        await peer.receive_request()
        await peer.wait_closed()

    both(plane, silent)
    async with client(plane.port) as c:
        got = await c.ask(post("/items/1", b"{}", "x-key: a", method="PUT"))
        # It may have taken effect.
        assert (got.status, got.json()["code"], got.json()["retryable"]) == (504, "upstream_timeout", False)
        got = await c.ask(get("/items/1", "x-key: a"))
        assert (got.status, got.json()["retryable"]) == (504, True)
    assert outcomes(plane) == {"failure": 2}


async def test_a_side_that_stops_in_mid_answer_is_cut(plane: Edge) -> None:
    async def stops(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        await peer.wait_closed()

    both(plane, stops)
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a"))
        with pytest.raises(ConnectionError):
            await c.rest()
    await until(lambda: outcomes(plane) == {"failure": 1})


async def test_a_side_that_drips_its_head_is_504(plane: Edge) -> None:
    async def drips(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: ")
        closed = asyncio.create_task(peer.wait_closed())
        while not closed.done():
            await peer.send(b"y")
            await asyncio.sleep(0.02)

    both(plane, drips)
    async with client(plane.port) as c:
        assert (await c.ask(get("/items/1", "x-key: a"))).status == 504


async def test_a_client_that_sends_too_slowly_is_408_and_no_failure_of_the_side(plane: Edge) -> None:
    async def take(peer: Peer) -> None:
        await peer.receive_request()

    both(plane, take)
    for _ in range(6):
        async with client(plane.port) as c:
            await c.send(post("/items/1", b"", "x-key: a", method="PUT").replace(b"length: 0", b"length: 100"))
            answer = asyncio.create_task(c.answer())
            while not answer.done():
                await c.send(b"x")
                await asyncio.sleep(0.05)
            got = await answer
            assert (got.status, got.json()["code"]) == (408, "request_timeout")
    assert outcomes(plane) == {"refused": 6}
    assert ejections(plane) == 0


async def test_a_client_that_reads_too_slowly_is_no_failure_of_the_side(plane: Edge) -> None:
    given_up = asyncio.Event()

    async def pour(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        gone = asyncio.create_task(peer.wait_closed())
        pouring = asyncio.create_task(_pour(peer))
        await gone
        given_up.set()
        pouring.cancel()

    both(plane, pour)
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a"))
        # It reads nothing while the time for the whole exchange passes, and then goes on as if nothing were.
        await given_up.wait()
        with pytest.raises(ConnectionError):
            await c.rest()
    await until(lambda: outcomes(plane) == {"client_gone": 1})
    assert ejections(plane) == 0


async def _pour(peer: Peer) -> None:
    while True:
        await peer.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await asyncio.sleep(0)
