"""What a client may spend, and what it gets for more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.limits import EdgeLimits
from gateway.edge.plane import LaneSettings
from tests.integration.edge.scene import Edge, Wish, answers_in, edge
from tests.support.raw_upstream import Peer
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until

TIGHT = EdgeLimits(
    header_bytes=4096,
    header_fields=20,
    target_bytes=1024,
    header_timeout_s=0.3,
    body_idle_timeout_s=0.3,
    write_idle_timeout_s=0.5,
    keep_alive_s=0.3,
    chunk_overhead_bytes=1024,
    connections=20,
)


@pytest.fixture
async def tight(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(limits=TIGHT)) as running:
        yield running


async def test_a_long_target_is_414(tight: Edge) -> None:
    assert answers_in(await tight.talk(get("/items/" + "a" * 2000))) == [414]


async def test_a_long_head_is_431(tight: Edge) -> None:
    assert answers_in(await tight.talk(get("/items/1", "x: " + "a" * 5000))) == [431]


async def test_a_head_that_never_ends_is_431(tight: Edge) -> None:
    async with client(tight.port) as c:
        await c.send(b"GET /items/1 HTTP/1.1\r\nhost: a\r\nx: ")
        answer = asyncio.create_task(c.answer())
        while not answer.done():
            try:
                await c.send(b"a" * 512)
            except ConnectionError:
                break
            await asyncio.sleep(0)
        assert (await answer).status == 431
    assert tight.forwarded == []


async def test_many_fields_are_431(tight: Edge) -> None:
    assert answers_in(await tight.talk(get("/items/1", *(f"x{n}: y" for n in range(30))))) == [431]


@pytest.mark.parametrize(
    ("begin", "more"), [(b"1;", b"a"), (b"1\r\nZ\r\n0\r\n", b"x: y\r\n")], ids=["extension", "trailers"]
)
async def test_endless_chunk_extensions_and_trailers_are_refused(tight: Edge, begin: bytes, more: bytes) -> None:
    async with client(tight.port) as c:
        await c.send(b"POST /find HTTP/1.1\r\nhost: a\r\nx-key: a\r\ntransfer-encoding: chunked\r\n\r\n" + begin)
        answer = asyncio.create_task(c.answer())
        sent = 0
        while not answer.done() and sent < 1 << 20:
            try:
                await c.send(more * 100)
            except ConnectionError:
                break
            sent += 100 * len(more)
            await asyncio.sleep(0)
        assert (await answer).status == 400
    assert tight.forwarded == []


async def test_a_half_head_is_408(tight: Edge) -> None:
    assert answers_in(await tight.talk(b"GET /items/1 HTTP/1.1\r\nhost")) == [408]


async def test_a_half_body_is_408(tight: Edge) -> None:
    assert answers_in(
        await tight.talk(post("/find", b"", "x-key: a").replace(b"length: 0", b"length: 9") + b"abc")
    ) == [408]


async def test_a_dripped_head_is_408_however_busy_it_looks(tight: Edge) -> None:
    async with client(tight.port) as c:
        answer = asyncio.create_task(c.answer())
        for byte in b"GET /items/1 HTTP/1.1\r\n" + b"x: y\r\n" * 100_000:
            if answer.done():
                break
            await c.send(bytes([byte]))
            await asyncio.sleep(0.001)
        assert (await answer).status == 408


async def test_an_idle_connection_is_closed_without_a_word(tight: Edge) -> None:
    async with client(tight.port) as c:
        assert (await c.ask(get())).status == 200
        assert await c.rest() == b""


async def is_refused(port: int) -> bool:
    """Whether a new connection is closed without an answer."""
    async with client(port) as c:
        try:
            await c.send(get())
            return await c.rest() == b""
        except ConnectionError:
            return True


async def test_for_a_connection_beyond_the_bound_the_oldest_idle_one_is_closed(tight: Edge) -> None:
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(client(tight.port)) for _ in range(20)]
        await held[1].send(b"GET /half")
        await until(lambda: len(tight.server.listener.connections) == 20)
        late = [await stack.enter_async_context(client(tight.port)) for _ in range(2)]
        assert [(await each.ask(get())).status for each in late] == [200, 200]
        for evicted in held[:2]:
            assert await evicted.rest() == b""
        assert (await held[2].ask(get())).status == 200
        assert len(tight.server.listener.connections) == 20


async def test_where_every_connection_is_at_work_a_further_one_is_closed(
    tmp_path: Path, sides: dict[Side, StubSide]
) -> None:
    release = asyncio.Event()
    for side in sides.values():
        side.script = lambda peer: slowly(peer, release)
    wish = Wish(EdgeLimits(connections=2))
    async with (
        edge(tmp_path, sides, live(migration(sides), 50), wish) as plane,
        client(plane.port) as a,
        client(plane.port) as b,
    ):
        await a.send(get())
        await b.send(get())
        await until(lambda: plane.plane.in_flight == 2)
        assert await is_refused(plane.port)
        assert plane.counted()["refused"] == {"overloaded": 1}
        release.set()
        assert (await a.answer()).status == (await b.answer()).status == 200


async def test_one_address_has_so_many_connections_and_no_more(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    wish = Wish(EdgeLimits(connections_per_address=2))
    async with edge(tmp_path, sides, live(migration(sides), 50), wish) as plane:
        for _ in range(3):
            async with client(plane.port) as a, client(plane.port) as b:
                assert (await a.ask(get())).status == (await b.ask(get())).status == 200
                assert await is_refused(plane.port)
            await until(lambda: not plane.server.listener.connections)


async def slowly(peer: Peer, release: asyncio.Event) -> None:
    await peer.receive_request()
    await release.wait()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_a_body_beyond_the_operations_limit_is_413(plane: Edge, coding: str) -> None:
    body = b"x" * 20_000
    if coding == "length":
        request = post("/find", body, "x-key: a")
    else:
        request = b"POST /find HTTP/1.1\r\nhost: a\r\nx-key: a\r\ntransfer-encoding: chunked\r\n\r\n4e20\r\n" + body
    async with client(plane.port) as c:
        answer = await c.ask(request)
    assert (answer.status, answer.json()["code"]) == (413, "body_too_large")


async def test_requests_beyond_the_bound_are_shed(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    release = asyncio.Event()
    for side in sides.values():
        side.script = lambda peer: slowly(peer, release)
    async with (
        edge(tmp_path, sides, live(migration(sides), 50), Wish(lane=LaneSettings(in_flight=2))) as plane,
        client(plane.port) as a,
        client(plane.port) as b,
        client(plane.port) as c,
    ):
        await a.send(get())
        await b.send(get())
        await until(lambda: plane.plane.in_flight == 2)
        answer = await c.ask(get())
        assert (answer.status, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers[b"retry-after"] == b"1"
        release.set()
        assert (await a.answer()).status == (await b.answer()).status == 200


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    gone = asyncio.Event()

    async def endless(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while not gone.is_set():
                await asyncio.wait_for(peer.send(b"10000\r\n" + b"x" * 65536 + b"\r\n"), 10)
                await asyncio.sleep(0)
        finally:
            gone.set()

    for side in sides.values():
        side.script = endless
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(limits=TIGHT)) as plane:
        async with client(plane.port) as c:
            await c.send(get())
            await until(lambda: plane.server.listener.connections)
            await until(lambda: not plane.server.listener.connections, "the stalled client is dropped")
        gone.set()
