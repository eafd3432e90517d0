"""A kill is not outrun by requests that were decided before it and not sent yet."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.core.model import Side
from gateway.upstream import SideUpstream, UpstreamLimits
from tests.integration.edge.scene import Edge, Wish, edge
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until


def waiting(plane: Edge, side: Side) -> int:
    """Exchanges that wait for a connection to a side."""
    upstream = plane.plane.sides[side]
    assert isinstance(upstream, SideUpstream)
    return upstream.stats().waiting


async def test_a_request_that_waited_for_a_connection_is_decided_again(
    tmp_path: Path, sides: dict[Side, StubSide]
) -> None:
    let = asyncio.Event()
    asked: list[bytes] = []

    async def held(peer: Peer) -> None:
        while True:
            asked.append((await peer.receive_request()).line)
            await let.wait()
            await peer.send(answer(b"new"))

    sides[Side.NEW].script = held
    wish = Wish(upstream=UpstreamLimits(connections=1, waiting_s=30.0))
    async with (
        edge(tmp_path, sides, live(migration(sides), 100), wish) as plane,
        client(plane.port) as first,
        client(plane.port) as second,
        client(plane.port) as third,
    ):
        await first.send(get("/items/1", "x-key: a"))
        await until(lambda: len(asked) == 1)
        await second.send(get("/items/2", "x-key: a"))
        await third.send(post("/find", b"{}", "x-key: a"))
        await until(lambda: waiting(plane, Side.NEW) == 2)
        plane.kill()
        let.set()
        answers = [await each.answer() for each in (first, second, third)]
        assert [(got.status, got.body, got.headers[b"crossfade-side"]) for got in answers] == [
            (200, b"new", b"new"),
            (200, b"old", b"old"),
            (200, b"old", b"old"),
        ]
        assert len(asked) == 1
        assert plane.plane.in_flight == 0


async def test_a_request_whose_body_came_after_the_kill_is_decided_again(
    tmp_path: Path, sides: dict[Side, StubSide]
) -> None:
    request = post("/find", b'{"key": "a"}')
    async with edge(tmp_path, sides, live(migration(sides), 100)) as plane, client(plane.port) as c:
        assert (await c.ask(request)).body == b"new"
        await c.send(request[:-4])
        await until(lambda: plane.plane.in_flight == 1)
        plane.kill()
        await c.send(request[-4:])
        assert (await c.answer()).body == b"old"
