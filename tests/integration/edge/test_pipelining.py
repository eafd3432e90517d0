"""Requests sent before earlier ones are answered: in order, complete, and never more than a connection may hold."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.limits import EdgeLimits
from tests.integration.edge.scene import Edge, Wish, answers_in, edge
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until


class Gate:
    """Sides that answer with the body they got; requests for /slow wait until `release` is set."""

    def __init__(self, sides: dict[Side, StubSide]) -> None:
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()
        for side in sides.values():
            side.script = self.serve

    async def serve(self, peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            if b"/slow" in request.line:
                self.waiting.set()
                await self.release.wait()
            await peer.send(answer(b"got:" + request.body))


HEAD = post("/find", b"", "x-key: a").replace(b"length: 0", b"length: 5")


def held(plane: Edge) -> int:
    """How many requests the gateway holds for its one client."""
    return max((len(c._exchanges) for c in plane.server.listener.connections), default=0)


async def test_a_body_that_comes_after_its_turn_is_awaited(plane: Edge, sides: dict[Side, StubSide]) -> None:
    gate = Gate(sides)
    async with client(plane.port) as c:
        await c.send(get("/slow") + HEAD)
        await gate.waiting.wait()
        gate.release.set()
        assert (await c.answer()).status == 200
        await c.send(b"hello")
        assert (await c.answer()).body == b"got:hello"
        assert (await c.ask(get())).status == 200


@pytest.mark.parametrize("early", [b"", b"he"], ids=["nothing of it", "a part of it"])
async def test_a_body_behind_a_slow_answer_is_not_held_against_its_client(
    tmp_path: Path, sides: dict[Side, StubSide], early: bytes
) -> None:
    gate = Gate(sides)
    limits = EdgeLimits(body_idle_timeout_s=0.2)
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(limits)) as plane, client(plane.port) as c:
        loop = asyncio.get_running_loop()
        await c.send(get("/slow") + HEAD + early)
        began = loop.time()
        # The sweep looks twice a second: past this, the deadline has been looked at.
        await until(lambda: loop.time() > began + 1.5)
        gate.release.set()
        assert (await c.answer()).status == 200
        await c.send(b"hello"[len(early) :])
        assert (await c.answer()).body == b"got:hello"


async def test_a_body_that_does_not_come_in_its_turn_is_408(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    gate = Gate(sides)
    limits = EdgeLimits(body_idle_timeout_s=0.2)
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(limits)) as plane, client(plane.port) as c:
        await c.send(get("/slow") + HEAD)
        await gate.waiting.wait()
        gate.release.set()
        assert (await c.answer()).status == 200
        assert (await c.answer()).status == 408


async def test_one_connection_holds_a_bounded_number_of_requests(plane: Edge, sides: dict[Side, StubSide]) -> None:
    gate = Gate(sides)
    async with client(plane.port) as c:
        await c.send(get("/slow"))
        await gate.waiting.wait()
        # In bursts, so that each ends with a complete request: the worst case for whoever reads ahead.
        for _ in range(20):
            await c.send(get() * 200)
            await asyncio.sleep(0)
        assert held(plane) <= 100
        gate.release.set()
        answers = [await c.answer()]
        while answers[-1].headers.get(b"connection") != b"close":
            answers.append(await c.answer())
        # Whatever was taken on is answered; the rest was never begun, and the close says so.
        assert {answer.status for answer in answers} == {200}
        assert len(answers) <= 101
        assert await c.rest() == b""


async def test_answering_one_lets_no_further_burst_in(plane: Edge, sides: dict[Side, StubSide]) -> None:
    Gate(sides).release.set()
    peak = 0
    async with client(plane.port) as c:
        reading = asyncio.create_task(c.reader.read(-1))
        for _ in range(50):
            if reading.done():
                break
            try:
                await c.send(get() * 40)
            except ConnectionError:
                break
            peak = max(peak, held(plane))
        c.writer.write(get("/items/1", "connection: close"))
        async with asyncio.timeout(30):
            await reading
    assert peak <= 100


async def test_an_early_close_leaves_the_requests_behind_it_unanswered(
    plane: Edge, sides: dict[Side, StubSide]
) -> None:
    async with client(plane.port) as c:
        await c.send(get() + get("/items/2", "connection: Close ,x") + get("/items/3"))
        assert [(await c.answer()).status for _ in range(2)] == [200, 200]
        assert await c.rest() == b""
    assert [line.split(b" ")[1] for line in plane.forwarded if b"/3" in line] == []


UPGRADE = ("connection: keep-alive, Upgrade", "upgrade: h2c", "http2-settings: AAMAAABkAARAAAAA")
SMUGGLED = get("/smuggled")


@pytest.mark.parametrize("pieces", [None, 1, 3], ids=["whole", "byte by byte", "in pieces"])
@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_the_body_of_a_request_that_asks_for_an_upgrade_is_its_body(
    plane: Edge, coding: str, pieces: int | None
) -> None:
    # As the HTTP client of the JDK asks on every plain connection.
    if coding == "length":
        request = post("/find", SMUGGLED, "x-key: a", *UPGRADE)
    else:
        head = post("/find", b"", "x-key: a", *UPGRADE).replace(b"content-length: 0", b"transfer-encoding: chunked")
        request = head + b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"
    said = await plane.talk(request + get("/items/2", "connection: close"), pieces=pieces)
    assert answers_in(said) == [200, 200]
    assert sorted(plane.forwarded) == [b"GET /items/2 HTTP/1.1", b"POST /find HTTP/1.1"]
    bodies = [request.body for side in plane.sides.values() for request in side.requests if request.body]
    assert bodies == [SMUGGLED]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_without_a_body_that_asks_for_an_upgrade_is_followed_by_the_next(
    plane: Edge, method: str
) -> None:
    first = post("/find", b"", "x-key: a", *UPGRADE) if method == "POST" else get("/items/1", *UPGRADE)
    assert answers_in(await plane.talk(first + get("/items/2", "connection: close"))) == [200, 200]


async def test_a_web_socket_request_with_a_body_smuggles_nothing(plane: Edge) -> None:
    request = post("/find", SMUGGLED, "x-key: a", "connection: upgrade", "upgrade: websocket")
    assert answers_in(await plane.talk(request + get("/items/2", "connection: close"))) == [200, 200]
    assert sorted(plane.forwarded) == [b"GET /items/2 HTTP/1.1", b"POST /find HTTP/1.1"]


async def test_a_client_that_leaves_takes_all_it_asked_for_along(plane: Edge, sides: dict[Side, StubSide]) -> None:
    gate = Gate(sides)
    async with client(plane.port) as c:
        await c.send(get("/slow") + get() * 10)
        await gate.waiting.wait()
    await until(lambda: plane.plane.in_flight == 0)
    await until(lambda: not plane.server.listener.connections)
    gate.release.set()
    assert len(plane.forwarded) == 0


async def test_a_client_that_leaves_an_upload_which_nobody_takes_is_noticed(
    plane: Edge, sides: dict[Side, StubSide]
) -> None:
    closed = asyncio.Event()

    async def take_nothing(peer: Peer) -> None:
        await peer.receive_head()
        await full.wait()
        await peer.wait_closed()
        closed.set()

    full = asyncio.Event()
    for side in sides.values():
        side.script = take_nothing
    async with client(plane.port) as c:
        c.writer.write(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 20_000_000)
        await until(lambda: any(p.flow.read_paused for p in plane.server.listener.connections))
        # A FIN would wait behind the bytes that nobody takes.
        sock = c.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.writer.transport.abort()
    await until(lambda: plane.plane.in_flight == 0)
    full.set()
    async with asyncio.timeout(20):
        await closed.wait()
