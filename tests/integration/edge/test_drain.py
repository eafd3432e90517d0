"""A worker that leaves: whatever it took on is carried to its end, nothing new is begun, and it does end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.lane_choice import EXPRESS_BODY_BYTES
from gateway.edge.limits import EdgeLimits
from gateway.edge.server import DrainSettings
from tests.integration.edge.scene import Edge, Wish, answers_in, edge
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until


class Held:
    """Sides that answer, with the body they got, once they are let."""

    def __init__(self, sides: dict[Side, StubSide]) -> None:
        self.asked = asyncio.Event()
        self.let = asyncio.Event()
        for side in sides.values():
            side.script = self.serve

    async def serve(self, peer: Peer) -> None:
        while True:
            head = await peer.receive_head()
            self.asked.set()
            lengths = head.field(b"content-length")
            body = await peer.receive_exactly(int(lengths[0])) if lengths else b""
            await self.let.wait()
            await peer.send(answer(b"got:" + body))


@pytest.fixture
async def held(sides: dict[Side, StubSide]) -> Held:
    return Held(sides)


@pytest.fixture
async def plane(tmp_path: Path, sides: dict[Side, StubSide], held: Held) -> AsyncIterator[Edge]:
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(EdgeLimits(header_timeout_s=0.4))) as running:
        yield running


async def test_a_request_under_way_is_answered_and_told_to_go(plane: Edge, held: Held) -> None:
    async with client(plane.port) as c:
        await c.send(get())
        await held.asked.wait()
        plane.server.drain(linger=False)
        await until(lambda: plane.server.listener.draining)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", plane.port)
        held.let.set()
        got = await c.answer()
        assert (got.status, got.headers[b"connection"]) == (200, b"close")
        assert await c.rest() == b""


async def test_an_upload_under_way_is_taken_to_its_end(plane: Edge, held: Held) -> None:
    async with client(plane.port) as c:
        half = b"x" * EXPRESS_BODY_BYTES
        await c.send(post("/upload", b"").replace(b"length: 0", b"length: %d" % (2 * len(half))) + half)
        await held.asked.wait()
        plane.server.drain(linger=False)
        await until(lambda: plane.server.listener.draining)
        held.let.set()
        await c.send(half)
        assert (await c.answer()).body == b"got:" + 2 * half
        assert await c.rest() == b""


async def test_requests_that_wait_behind_another_are_not_begun(plane: Edge, held: Held) -> None:
    async with client(plane.port) as c:
        await c.send(get() + get("/items/2") + get("/items/3"))
        await held.asked.wait()
        plane.server.drain(linger=False)
        await until(lambda: plane.server.listener.draining)
        held.let.set()
        assert answers_in(await c.rest()) == [200]


async def test_a_half_request_does_not_hold_it_up(plane: Edge, held: Held) -> None:
    async with client(plane.port) as c, client(plane.port) as idle:
        await c.send(b"GET /items/1 HTTP/1.1\r\nhost")
        await until(lambda: any(connection._begun for connection in plane.server.listener.connections))
        plane.server.drain(linger=False)
        assert await idle.rest() == b""
        assert answers_in(await c.rest()) == [408]


async def test_what_takes_longer_than_the_grace_is_cut_and_never_looks_whole(
    tmp_path: Path, sides: dict[Side, StubSide]
) -> None:
    async def endless(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        await peer.wait_closed()

    for side in sides.values():
        side.script = endless
    wish = Wish(drain=DrainSettings(grace_s=0.3, linger_s=0.1))
    async with edge(tmp_path, sides, live(migration(sides), 50), wish) as plane, client(plane.port) as c:
        await c.send(b"GET /items/1 HTTP/1.0\r\nhost: a\r\n\r\n")
        await c.reader.readuntil(b"half")
        plane.server.drain(linger=False)
        with pytest.raises(ConnectionError):
            await c.rest()
