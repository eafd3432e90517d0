"""Bytes flow both ways as they come; whoever leaves takes the other end along."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from gateway.core.model import Side
from tests.integration.edge.scene import Edge, outcomes
from tests.support.raw_upstream import Peer, Script, answer
from tests.support.sides import StubSide, client, get, post
from tests.support.waiting import until

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def both(plane: Edge, script: Script) -> None:
    for side in plane.sides.values():
        side.script = script


async def test_events_arrive_one_by_one(plane: Edge) -> None:
    go_on = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(CHUNKED + b"7\r\ndata:1\n\r\n")
        await go_on.wait()
        await peer.send(b"7\r\ndata:2\n\r\n0\r\n\r\n")

    both(plane, events)
    async with client(plane.port) as c:
        await c.send(get())
        first = await c.reader.readuntil(b"data:1\n\r\n")
        assert b"data:2" not in first
        go_on.set()
        assert (await c.reader.readuntil(b"0\r\n\r\n")).startswith(b"7\r\ndata:2")


async def test_the_head_of_an_answer_does_not_wait_for_its_body(plane: Edge) -> None:
    go_on = asyncio.Event()

    async def head_first(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await go_on.wait()
        await peer.send(b"ok")

    both(plane, head_first)
    async with client(plane.port) as c:
        await c.send(get())
        await c.reader.readuntil(b"\r\n\r\n")
        go_on.set()
        assert await c.reader.readexactly(2) == b"ok"


async def test_an_answer_may_begin_before_the_upload_ends(plane: Edge) -> None:
    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(CHUNKED)
        while True:
            size = int(await peer.receive_until(b"\r\n"), 16)
            data = await peer.receive_exactly(size + 2)
            await peer.send(b"%x\r\n" % size + data)
            if not size:
                return

    both(plane, echo)
    async with client(plane.port) as c:
        await c.send(b"POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await c.reader.readuntil(b"\r\n\r\n")
        for n in range(5):
            await c.send(b"5\r\nping%d\r\n" % n)
            assert await c.reader.readuntil(b"ping%d\r\n" % n)
        await c.send(b"0\r\n\r\n")
        assert (await c.reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_a_large_upload_arrives_whole(plane: Edge, coding: str) -> None:
    block, blocks = bytes(range(256)) * 256, 256
    digest = hashlib.sha256()

    async def digest_it(peer: Peer) -> None:
        head = await peer.receive_head()
        left = blocks * len(block)
        if head.field(b"transfer-encoding"):
            while size := int(await peer.receive_until(b"\r\n"), 16):
                digest.update((await peer.receive_exactly(size + 2))[:-2])
            await peer.receive_until(b"\r\n")
        else:
            while left:
                piece = await peer.receive_exactly(min(left, len(block)))
                digest.update(piece)
                left -= len(piece)
        await peer.send(answer(digest.hexdigest().encode()))

    both(plane, digest_it)
    async with client(plane.port) as c:
        framing = (
            b"transfer-encoding: chunked" if coding == "chunked" else b"content-length: %d" % (blocks * len(block))
        )
        await c.send(b"POST /upload HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n")
        for _ in range(blocks):
            await c.send(b"%x\r\n" % len(block) + block + b"\r\n" if coding == "chunked" else block)
        if coding == "chunked":
            await c.send(b"0\r\n\r\n")
        expected = hashlib.sha256(block * blocks).hexdigest().encode()
        assert (await c.answer()).body == expected


async def test_an_early_refusal_of_an_upload_reaches_the_client(plane: Edge) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")

    both(plane, refuse)
    async with client(plane.port) as c:
        await c.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\n" + b"x" * 100_000)
        got = await c.answer()
    assert (got.status, got.body) == (413, b"big")


@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_a_client_that_leaves_ends_the_upstream_call(plane: Edge, when: str) -> None:
    closed = asyncio.Event()
    reached = asyncio.Event()

    async def wait_for_end(peer: Peer) -> None:
        await peer.receive_request()
        if when == "in the body":
            await peer.send(CHUNKED + b"1\r\na\r\n")
        reached.set()
        await peer.wait_closed()
        closed.set()

    both(plane, wait_for_end)
    async with client(plane.port) as c:
        await c.send(get())
        await reached.wait()
        if when == "in the body":
            await c.reader.readuntil(b"a\r\n")
    async with asyncio.timeout(20):
        await closed.wait()
    await until(lambda: outcomes(plane) == {"client_gone": 1})


async def test_a_client_that_leaves_in_mid_upload_ends_the_upstream_call(plane: Edge) -> None:
    closed = asyncio.Event()

    async def take(peer: Peer) -> None:
        await peer.receive_head()
        await peer.wait_closed()
        closed.set()

    both(plane, take)
    async with client(plane.port) as c:
        await c.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nabc")
        await until(lambda: plane.plane.in_flight == 1)
    async with asyncio.timeout(20):
        await closed.wait()


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"", 502, "upstream_reset"),
        (b"HTTP/1.1 2", 502, "upstream_reset"),
        (b"nonsense\r\n\r\n", 502, "upstream_invalid"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", 502, "upstream_invalid"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            502,
            "upstream_invalid",
        ),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000 + b"\r\n\r\n", 502, "upstream_invalid"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", 502, "upstream_invalid"),
    ],
)
async def test_a_side_without_a_usable_answer_is_a_problem(plane: Edge, said: bytes, status: int, code: str) -> None:
    async def say(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(said)

    both(plane, say)
    async with client(plane.port) as c:
        got = await c.ask(post("/items/1", b"{}", "x-key: a", method="PUT"))
    assert (got.status, got.json()["code"]) == (status, code)
    assert got.headers[b"content-type"] == b"application/problem+json"


async def test_a_side_that_refuses_connections_is_502(plane: Edge) -> None:
    for side in plane.sides.values():
        assert side.server is not None
        await side.server.aclose()
    async with client(plane.port) as c:
        got = await c.ask(get("/items/1", "x-key: a"))
    assert (got.status, got.json()["code"]) == (502, "upstream_refused")


@pytest.mark.parametrize("ending", ["reset", "fin"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_that_breaks_off_never_ends_cleanly(plane: Edge, ending: str, framing: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"

    async def break_off(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(head if framing == "length" else CHUNKED + b"5\r\nabc")
        await sent.wait()
        if ending == "reset":
            peer.reset()

    sent = asyncio.Event()
    both(plane, break_off)
    async with client(plane.port) as c:
        await c.send(get())
        await c.reader.readuntil(b"abc")
        sent.set()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await c.reader.readuntil(b"0\r\n\r\n")
    await until(lambda: outcomes(plane) == {"failure": 1})


async def test_surplus_bytes_of_a_side_reach_no_other_client(plane: Edge) -> None:
    async def poison(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(answer(b"mine") + answer(b"POISON"))
        await peer.wait_closed()

    both(plane, poison)
    for _ in range(5):
        async with client(plane.port) as c:
            assert (await c.ask(get("/items/1", "x-key: a"))).body == b"mine"


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b'HTTP/1.1 304 Not Modified\r\netag: "a"\r\ncontent-length: 5\r\n\r\n', 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 404 Not Here\r\ncontent-length: 1\r\n\r\nx", 404, b"x"),
        (b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 1\r\n\r\nx", 503, b"x"),
    ],
)
async def test_answers_of_every_shape_pass(plane: Edge, said: bytes, status: int, body: bytes) -> None:
    async def say(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(said)

    both(plane, say)
    async with client(plane.port) as c:
        got = await c.ask(get("/items/1", "x-key: a"))
        assert (got.status, got.body) == (status, body)
        both(plane, _plain)
        assert (await c.ask(get("/items/1", "x-key: a"))).status == 200


async def _plain(peer: Peer) -> None:
    while True:
        await peer.receive_request()
        await peer.send(answer(b"plain"))


async def test_the_answer_to_head_has_no_body_and_keeps_its_length(plane: Edge, sides: dict[Side, StubSide]) -> None:
    async def say(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")

    both(plane, say)
    async with client(plane.port) as c:
        got = await c.ask(b"HEAD /items/1 HTTP/1.1\r\nhost: a\r\nx-key: a\r\n\r\n", head=True)
        assert (got.status, got.headers[b"content-length"]) == (200, b"1234")
        assert (await c.ask(b"HEAD /items/1 HTTP/1.1\r\nhost: a\r\nx-key: a\r\n\r\n", head=True)).status == 200


async def test_an_http_1_0_client_gets_an_answer_it_can_read(plane: Edge) -> None:
    async def say(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")

    both(plane, say)
    said = await plane.talk(b"GET /items/1 HTTP/1.0\r\nhost: a\r\n\r\n")
    assert said.endswith(b"\r\n\r\nhello")
    assert b"transfer-encoding" not in said


async def test_a_client_that_expects_100_continue_gets_it_and_the_side_never_sees_the_field(plane: Edge) -> None:
    async with client(plane.port) as c:
        await c.send(b"POST /find HTTP/1.1\r\nhost: a\r\nx-key: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await c.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await c.send(b"{}")
        assert (await c.answer()).status == 200
    request = next(request for side in plane.sides.values() for request in side.requests)
    assert not request.field(b"expect")
