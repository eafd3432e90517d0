"""Switches of protocol: WebSocket and whatever else a client asks for, as raw bytes both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.limits import EdgeLimits
from gateway.edge.server import DrainSettings
from tests.integration.edge.scene import Edge, Wish, answers_in, edge, outcomes
from tests.support.raw_upstream import Peer, Script, answer
from tests.support.sides import Client, StubSide, client, get, live, migration
from tests.support.waiting import until

ASK = ("x-key: a", "connection: keep-alive, Upgrade", "upgrade: websocket", "sec-websocket-key: AAAA")
REQUEST = get("/items/1", *ASK)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: B\r\n\r\n"
)


async def echo(peer: Peer) -> None:
    """Switches and says everything back, until nothing more comes."""
    await peer.receive_request()
    await peer.send(SWITCH)
    while data := await peer.receive():
        await peer.send(data)


def both(plane: Edge, script: Script) -> None:
    for side in plane.sides.values():
        side.script = script


async def open_tunnel(c: Client) -> dict[bytes, bytes]:
    """Asks for a tunnel and reads the head of the answer."""
    await c.send(REQUEST)
    head = (await c.until(b"\r\n\r\n"))[:-4]
    line, *fields = head.split(b"\r\n")
    assert line == b"HTTP/1.1 101 Switching Protocols"
    return {name: value.strip() for name, _, value in (field.partition(b":") for field in fields)}


async def test_bytes_pass_both_ways_as_they_are(plane: Edge) -> None:
    asked = []

    async def script(peer: Peer) -> None:
        asked.append(await peer.receive_request())
        await peer.send(SWITCH + b"hello")
        while data := await peer.receive():
            await peer.send(data)

    both(plane, script)
    async with client(plane.port) as c:
        fields = await open_tunnel(c)
        assert (fields[b"connection"], fields[b"upgrade"], fields[b"sec-websocket-accept"]) == (
            b"upgrade",
            b"WebSocket",
            b"B",
        )
        assert fields[b"crossfade-side"] in (b"old", b"new")
        assert await c.exactly(5) == b"hello"
        for said in (b"GET /smuggled HTTP/1.1\r\n\r\n", b"\x00\xff" * 40_000, b"x"):
            await c.send(said)
            assert await c.exactly(len(said)) == said
    assert (asked[0].field(b"connection"), asked[0].field(b"upgrade")) == ([b"upgrade"], [b"websocket"])
    assert asked[0].field(b"sec-websocket-key") == [b"AAAA"]
    await until(lambda: outcomes(plane) == {"ok": 1})
    assert plane.plane.in_flight == 0


async def test_what_a_client_says_too_early_waits_for_the_switch(plane: Edge) -> None:
    let = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await let.wait()
        await peer.send(SWITCH)
        while data := await peer.receive():
            await peer.send(data)

    both(plane, script)
    early = b"early" * 50_000
    async with client(plane.port) as c:
        await c.send(REQUEST)
        sending = asyncio.create_task(c.send(early))
        let.set()
        await c.until(b"\r\n\r\n")
        assert await c.exactly(len(early)) == early
        await sending


async def test_a_side_that_does_not_switch_gives_its_answer(plane: Edge) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(answer(b"no", status=b"426 Upgrade Required"))

    both(plane, script)
    said = await plane.talk(REQUEST + get("/smuggled"))
    assert answers_in(said) == [426]
    assert said.endswith(b"no")
    assert b"connection: close" in said
    assert not any(b"smuggled" in line for line in plane.forwarded)


async def test_a_request_that_is_refused_opens_nothing(plane: Edge) -> None:
    said = await plane.talk(get("/v1/workspaces", *ASK) + get("/smuggled"))
    assert answers_in(said) == [404]
    assert plane.forwarded == []


@pytest.mark.parametrize("chosen", [b"Upgrade: h2c\r\n", b"Upgrade: websocket, x\r\n", b""])
async def test_a_switch_to_what_nobody_asked_for_is_502(plane: Edge, chosen: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n" + chosen + b"\r\n")
        await peer.wait_closed()

    both(plane, script)
    async with client(plane.port) as c:
        got = await c.ask(REQUEST)
        assert (got.status, got.json()["code"]) == (502, "upstream_invalid")


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        (("connection: upgrade", "upgrade: h2c"), []),
        (("connection: upgrade", "upgrade: H2C, WebSocket"), [b"WebSocket"]),
        (("connection: upgrade", "upgrade: h2c", "upgrade: websocket"), [b"websocket"]),
        (("connection: keep-alive", "upgrade: websocket"), []),
        (("upgrade: websocket",), []),
        (("connection: upgrade",), []),
    ],
)
async def test_only_what_may_be_switched_to_is_asked_for(
    plane: Edge, fields: tuple[str, ...], asked: list[bytes]
) -> None:
    async with client(plane.port) as c:
        assert (await c.ask(get("/items/1", "x-key: a", *fields))).status == 200
    (request,) = [request for side in plane.sides.values() for request in side.requests]
    assert request.field(b"upgrade") == asked


async def test_a_client_of_http_1_0_switches_nothing(plane: Edge) -> None:
    async with client(plane.port) as c:
        assert (await c.ask(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"))).status == 200


async def test_each_end_may_finish_first(plane: Edge) -> None:
    async def speaks_after_the_end(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(SWITCH)
        heard = b""
        while data := await peer.receive():
            heard += data
        await peer.send(b"heard:" + heard)

    both(plane, speaks_after_the_end)
    async with client(plane.port) as c:
        await open_tunnel(c)
        await c.send(b"abc")
        c.writer.write_eof()
        assert await c.rest() == b"heard:abc"

    closed = asyncio.Event()

    async def finishes_first(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(SWITCH + b"bye")
        peer.finish()
        while await peer.receive():
            pass
        closed.set()

    both(plane, finishes_first)
    async with client(plane.port) as c:
        await open_tunnel(c)
        assert await c.rest() == b"bye"
        await c.send(b"still here")
        c.writer.write_eof()
        async with asyncio.timeout(30):
            await closed.wait()
    await until(lambda: not plane.server.listener.connections)


async def test_a_side_that_breaks_resets_the_client(plane: Edge) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(SWITCH)
        await peer.receive_exactly(1)
        peer.reset()

    both(plane, script)
    async with client(plane.port) as c:
        await open_tunnel(c)
        await c.send(b"x")
        with pytest.raises(ConnectionError):
            await c.rest()


async def test_a_client_that_leaves_ends_the_side(plane: Edge) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(SWITCH)
        await peer.wait_closed()
        closed.set()

    both(plane, script)
    async with client(plane.port) as c:
        await open_tunnel(c)
        c.writer.transport.abort()
        async with asyncio.timeout(30):
            await closed.wait()


async def test_a_slow_end_holds_the_other_up_and_memory_stays_bounded(plane: Edge) -> None:
    let = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(SWITCH)
        await let.wait()
        got = 0
        while data := await peer.receive():
            got += len(data)
        await peer.send(b"%d" % got)

    both(plane, script)
    size = 40_000_000
    async with client(plane.port) as c:
        await open_tunnel(c)
        c.writer.write(b"x" * size)
        c.writer.write_eof()
        await until(lambda: any(p.flow.read_paused for p in plane.server.listener.connections))
        let.set()
        assert await c.rest() == b"%d" % size


@pytest.fixture
async def hasty(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    wish = Wish(EdgeLimits(tunnel_idle_s=0.3), drain=DrainSettings(grace_s=0.3, linger_s=0.0))
    async with edge(tmp_path, sides, live(migration(sides), 50), wish) as running:
        yield running


async def test_a_silent_tunnel_is_closed(hasty: Edge) -> None:
    both(hasty, echo)
    async with client(hasty.port) as c:
        await open_tunnel(c)
        with contextlib.suppress(ConnectionError):
            assert await c.rest() == b""
    await until(lambda: not hasty.server.listener.connections)


async def test_a_worker_that_leaves_cuts_tunnels_when_its_grace_is_over(hasty: Edge) -> None:
    both(hasty, echo)
    async with client(hasty.port) as c:
        await open_tunnel(c)
        hasty.server.drain(linger=False)
        with contextlib.suppress(ConnectionError):
            await c.rest()
    await until(lambda: not hasty.server.listener.connections)
