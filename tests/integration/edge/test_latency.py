"""What is booked as a side's time is the side's: not what a client took, nor how long a stream goes on.

The clock is put forward while one of them is waited for; nobody really waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.lane_choice import Lane
from tests.integration.edge.scene import Edge, edge
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, live, migration
from tests.support.waiting import until

LONG_S = 1000.0


@dataclass
class Shift:
    """How far the clock of the lanes is ahead."""

    seconds: float = 0.0


@pytest.fixture
async def plane(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    async with edge(tmp_path, sides, live(migration(sides), 100)) as running:
        yield running


@pytest.fixture
def shift(plane: Edge) -> Shift:
    shift, before = Shift(), plane.plane.clock
    plane.plane.clock = replace(before, monotonic=lambda: before.monotonic() + shift.seconds)
    return shift


def booked_s(plane: Edge, operation: str) -> float:
    seconds: float = plane.counted()["operations"][operation]["new"]["sum_s"]
    return seconds


@pytest.mark.parametrize("framing", [b"content-length: 4\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
async def test_a_client_that_sends_its_body_slowly(
    plane: Edge, shift: Shift, sides: dict[Side, StubSide], lane: Lane, framing: bytes
) -> None:
    is_chunked = b"chunked" in framing
    has_begun = asyncio.Event()

    async def take(peer: Peer) -> None:
        await peer.receive_until(b"ab")
        has_begun.set()
        await peer.receive_until(b"cd")
        await peer.send(answer(b"ok"))

    sides[Side.NEW].script = take
    async with client(plane.port) as c:
        await c.send(b"PUT /items/1 HTTP/1.1\r\nhost: a\r\nx-key: k\r\n" + framing)
        await c.send(b"2\r\nab\r\n" if is_chunked else b"ab")
        if is_chunked or lane is Lane.GENERAL:
            await has_begun.wait()
        else:
            # It is asked when the body is whole.
            await until(lambda: plane.plane.in_flight == 1)
        shift.seconds += LONG_S
        await c.send(b"2\r\ncd\r\n0\r\n\r\n" if is_chunked else b"cd")
        assert (await c.answer()).status == 200
        await until(lambda: plane.plane.in_flight == 0)
    assert booked_s(plane, "item.put") < LONG_S / 2


async def test_a_client_that_reads_its_answer_slowly(plane: Edge, shift: Shift, sides: dict[Side, StubSide]) -> None:
    size = 64 << 20

    async def large(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)

    sides[Side.NEW].script = large
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: k"))
        await c.reader.readuntil(b"\r\n\r\n")
        connections = plane.server.listener.connections
        await until(lambda: any(connection.flow.write_paused for connection in connections), "nobody reads")
        shift.seconds += LONG_S
        await c.reader.readexactly(size)
        await until(lambda: plane.plane.in_flight == 0)
    assert booked_s(plane, "item.get") < LONG_S / 2


async def test_a_stream_is_as_fast_as_its_first_event(plane: Edge, shift: Shift, sides: dict[Side, StubSide]) -> None:
    go_on = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(b"7\r\ndata:1\n\r\n")
        await go_on.wait()
        await peer.send(b"7\r\ndata:2\n\r\n0\r\n\r\n")

    sides[Side.NEW].script = events
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: k"))
        await c.reader.readuntil(b"data:1\n\r\n")
        # Nobody waits for it any more: it counts neither as hanging nor as silence.
        assert not plane.plane.on_new
        shift.seconds += LONG_S
        go_on.set()
        await c.reader.readuntil(b"0\r\n\r\n")
        await until(lambda: plane.plane.in_flight == 0)
    assert booked_s(plane, "item.get") < LONG_S / 2


async def test_what_new_takes_is_booked(plane: Edge, shift: Shift, sides: dict[Side, StubSide]) -> None:
    go_on = asyncio.Event()

    async def late(peer: Peer) -> None:
        await peer.receive_request()
        await go_on.wait()
        await peer.send(answer(b"late"))

    sides[Side.NEW].script = late
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: k"))
        await until(lambda: len(plane.plane.on_new) == 1)
        assert not next(iter(plane.plane.on_new)).has_begun
        shift.seconds += LONG_S
        go_on.set()
        assert (await c.answer()).status == 200
    assert booked_s(plane, "item.get") > LONG_S
