"""What a side may answer, as a client sees it: passed on exactly, or refused, never half, never twice."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.edge.scene import Edge, outcomes
from tests.support.raw_upstream import Peer, Script, answer, chunked_answer
from tests.support.sides import client, get, post
from tests.support.waiting import until

OK = b"HTTP/1.1 200 OK\r\n"
POISON = answer(b"POISON")


def both(plane: Edge, script: Script) -> None:
    for side in plane.sides.values():
        side.script = script


def saying(said: bytes, *, pieces: int | None = None) -> Script:
    """Answers the first request of the first connection so, and every other one well."""

    async def script(peer: Peer) -> None:
        if not peer.number:
            await peer.receive_request()
            await peer.send_in_pieces(said, pieces or len(said))
        while True:
            await peer.receive_request()
            await peer.send(answer(b"good"))

    return script


INVALID = {
    "R03 length and coding": OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "R05 equal lengths twice": OK + b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
    "list of lengths": OK + b"content-length: 0, 0\r\n\r\n",
    "R13 unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "R14 interim flood": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + answer(b""),
    "hints without end": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 17 + answer(b""),
    "R17 bare LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "R18 folded field": OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "R19 space before colon": OK + b"content-length : 0\r\n\r\n",
    "R24 status 999": b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 Odd\r\ncontent-length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "R27 long header": OK + b"x: " + b"y" * (1 << 20) + b"\r\n\r\n",
    "R28 many headers": OK + b"x: y\r\n" * 5000 + b"\r\n",
    "R29 gzip under chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "NUL in a value": OK + b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": OK + b"x: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
    "space in a name": OK + b"x y: a\r\ncontent-length: 0\r\n\r\n",
    "signed length": OK + b"content-length: +0\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"hello",
}


@pytest.mark.parametrize("pieces", [None, 3], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", INVALID)
async def test_an_answer_that_is_none_is_502_and_the_next_is_not_touched_by_it(
    plane: Edge, name: str, pieces: int | None
) -> None:
    said = INVALID[name]
    both(plane, saying(said, pieces=pieces if len(said) < 10_000 else None))
    async with client(plane.port) as c:
        got = await c.ask(get("/items/1", "x-key: a"))
        assert (got.status, got.json()["code"]) == (502, "upstream_invalid")
        assert (await c.ask(get("/items/1", "x-key: a"))).body == b"good"


@pytest.mark.parametrize(
    ("method", "said", "status", "body"),
    [
        ("GET", answer(b"mine") + POISON, 200, b"mine"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + POISON, 204, b""),
        ("GET", b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 204, b""),
        ("GET", b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nbody", 204, b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nbody", 304, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody", 200, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 200, b""),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\n\r\n", 404, b""),
        ("GET", chunked_answer(b"mine") + POISON, 200, b"mine"),
        ("GET", chunked_answer(b"mine") + b"\r\n", 200, b"mine"),
        ("GET", b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", 205, b""),
        ("GET", b"HTTP/1.1 200 OK\r\nconnection: upgrade\r\nupgrade: h2\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        ("GET", b"HTTP/1.1 426 Upgrade\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 0\r\n\r\n", 426, b""),
        ("GET", b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n", 599, b""),
    ],
)  # fmt: skip
async def test_nothing_of_one_answer_is_ever_found_in_the_next(
    plane: Edge, method: str, said: bytes, status: int, body: bytes
) -> None:
    both(plane, saying(said))
    async with client(plane.port) as c:
        got = await c.ask(f"{method} /items/1 HTTP/1.1\r\nhost: a\r\nx-key: a\r\n\r\n".encode(), head=method == "HEAD")
        assert (got.status, got.body) == (status, body)
        if status in (204, 304) or method == "HEAD":
            assert b"transfer-encoding" not in got.headers
        if status == 204:
            assert b"content-length" not in got.headers
        assert b"upgrade" not in got.headers
        # On the same connection, so a body where none may be would be read as an answer.
        plain = await c.ask(get("/items/1", "x-key: a"))
        assert (plain.status, plain.body) == (200, b"good")


@pytest.mark.parametrize(
    "said",
    [
        OK + b"content-length: 100\r\n\r\nabc",
        OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
    ],
    ids=["length", "chunked", "no last line", "bad size", "too much data"],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_half_an_answer_never_looks_whole_whatever_the_client_speaks(
    plane: Edge, said: bytes, version: str
) -> None:
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        head, _, body = said.partition(b"abc")
        await peer.send(head + b"abc")
        await seen.wait()
        await peer.send(body)

    both(plane, script)
    async with client(plane.port) as c:
        await c.send(f"GET /items/1 HTTP/{version}\r\nhost: a\r\n\r\n".encode())
        await c.reader.readuntil(b"abc")
        seen.set()
        # An end of file would be the end of the answer to a client of HTTP/1.0.
        with pytest.raises(ConnectionError):
            await c.rest()
    await until(lambda: outcomes(plane) == {"failure": 1})


async def test_repeated_fields_stay_apart_and_in_order_and_hop_by_hop_ones_go(plane: Edge) -> None:
    fields = [
        b"set-cookie: a=1; path=/",
        b"Set-Cookie: b=2",
        b"vary: a",
        b"x-odd: \xff\xfe",
        b"vary: b",
        b"connection: x-gone, X-Also ,close",
        b"x-gone: 1",
        b"x-also: 1",
        b"keep-alive: timeout=5",
        b"proxy-authenticate: basic",
        b"trailer: x",
        b"crossfade-side: forged",
        b"x-request-id: forged",
        b"www-authenticate: bearer",
        b"allow: GET",
        b"date: Mon, 01 Jan 2024 00:00:00 GMT",
    ]
    both(plane, saying(answer(b"body", *fields)))
    async with client(plane.port) as c:
        await c.send(get("/items/1", "connection: close"))
        head, _, body = (await c.rest()).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")[1:]
    assert body == b"body"
    assert [line for line in lines if line.startswith((b"set-cookie", b"vary", b"x-odd"))] == [
        b"set-cookie: a=1; path=/",
        b"set-cookie: b=2",
        b"vary: a",
        b"x-odd: \xff\xfe",
        b"vary: b",
    ]
    names = [line.partition(b":")[0] for line in lines]
    for name in (b"x-gone", b"x-also", b"keep-alive", b"proxy-authenticate", b"trailer"):
        assert name not in names
    for name in (b"date", b"x-request-id", b"crossfade-side", b"www-authenticate", b"allow", b"connection"):
        assert names.count(name) == 1, name
    assert b"forged" not in head


async def test_a_connection_serves_on_after_every_error_whose_request_was_read(plane: Edge) -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            if b"/reset" in request.line:
                peer.reset()
                return
            if b"/garbage" in request.line:
                await peer.send(b"garbage")
                return
            await peer.send(answer(request.body, status=b"404 Not Found"))

    both(plane, script)
    async with client(plane.port) as c:
        for _ in range(3):
            assert (await c.ask(post("/reset", b"body"))).status == 502
            assert (await c.ask(post("/garbage", b"body"))).status == 502
            assert (await c.ask(get("/v1/workspaces"))).status == 404
            assert (await c.ask(get("/items/%2F"))).status == 400
            assert (await c.ask(get("/mcp"))).status == 405
            assert (await c.ask(post("/mcp", b"{"))).status == 400
            assert (await c.ask(post("/find", b"body", "x-key: a"))).body == b"body"


HINTS = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-gone\r\nX-Gone: 1\r\nCrossfade-Side: new\r\n\r\n"
)


async def test_interim_answers_pass_in_order_and_before_the_final_one(plane: Edge) -> None:
    both(plane, saying(HINTS + answer(b"final")))
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a") + get("/items/1", "x-key: a"))
        got = await c.answer()
        assert [(each.status, each.headers) for each in got.interim] == [(102, {}), (103, {b"link": b"</a>"})]
        assert (got.status, got.body) == (200, b"final")
        assert (await c.answer()).body == b"good"


async def test_a_hint_does_not_wait_for_the_answer(plane: Edge) -> None:
    let = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(HINTS)
        await let.wait()
        await peer.send(answer(b"final"))

    both(plane, script)
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a"))
        async with asyncio.timeout(30):
            assert (await c.reader.readuntil(b"</a>\r\n\r\n")).startswith(b"HTTP/1.1 102 Processing\r\n\r\n")
        let.set()
        assert (await c.answer()).body == b"final"


async def test_a_client_of_http_1_0_hears_of_no_interim_answer(plane: Edge) -> None:
    both(plane, saying(HINTS + answer(b"final")))
    async with client(plane.port) as c:
        got = await c.ask(get("/items/1", "x-key: a").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (got.interim, got.body) == ([], b"final")


async def test_unread_upload_ends_the_connection_and_is_never_a_request(plane: Edge) -> None:
    smuggled = get("/smuggled")
    async with client(plane.port) as c:
        head = post("/v1/workspaces", b"").replace(b"length: 0", b"length: %d" % (len(smuggled) + 5))
        got = await c.ask(head)
        assert (got.status, got.headers[b"connection"]) == (404, b"close")
        await c.send(b"hello" + smuggled + smuggled)
        assert await c.rest() == b""
    assert plane.forwarded == []


@pytest.mark.parametrize("expectation", ["100-continue", "100-Continue, x", "x"])
async def test_an_expectation_is_met_or_passed_over_and_never_forwarded(plane: Edge, expectation: str) -> None:
    async with client(plane.port) as c:
        head = post("/find", b"", "x-key: a", f"expect: {expectation}").replace(b"length: 0", b"length: 2")
        await c.send(head)
        if expectation != "x":
            assert (await c.answer()).status == 100
        await c.send(b"{}")
        assert (await c.answer()).status == 200
        # The body is here already: RFC 9110 §10.1.1 lets the interim answer be left out.
        assert (await c.ask(head + b"{}")).status == 200
    assert not any(request.field(b"expect") for side in plane.sides.values() for request in side.requests)


async def test_a_client_of_http_1_0_is_never_told_to_continue_and_never_kept(plane: Edge) -> None:
    request = post("/find", b"", "x-key: a", "expect: 100-continue", "connection: keep-alive")
    request = request.replace(b"HTTP/1.1\r\nhost: shop.example", b"HTTP/1.0").replace(b"length: 0", b"length: 2")
    async with client(plane.port) as c:
        await c.send(request)
        await c.send(b"{}")
        got = await c.answer()
        assert (got.status, got.headers[b"connection"]) == (200, b"close")
        assert await c.rest() == b""
    # It sent no Host, and the side is called by its own name.
    sent = next(request for side in plane.sides.values() for request in side.requests)
    assert sent.line == b"POST /find HTTP/1.1"
    assert sent.field(b"host")[0].startswith(b"127.0.0.1:")
    assert sent.field(b"via") == [b"1.0 crossfade-shop"]


async def test_a_refused_upload_is_not_asked_for(plane: Edge) -> None:
    async with client(plane.port) as c:
        request = post("/find", b"", "x-key: a", "expect: 100-continue").replace(b"length: 0", b"length: 99999")
        assert (await c.ask(request)).status == 413


@pytest.mark.parametrize("size", [1, 3, 65_536, 300_000])
async def test_chunks_of_every_size_arrive_whole_both_ways(plane: Edge, size: int) -> None:
    async def echo(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            pieces = [request.body[at : at + size] for at in range(0, len(request.body), size)]
            await peer.send(chunked_answer(*pieces, trailers=b"x-trailer: late\r\n"))

    both(plane, echo)
    body = bytes(range(256)) * (4 if size < 10 else 4096)
    coded = b"".join(
        b"%X;ext=1\r\n%b\r\n" % (len(piece), piece)
        for piece in (body[at : at + size] for at in range(0, len(body), size))
    )
    request = b"POST /echo HTTP/1.1\r\nhost: a\r\ntrailer: x-late\r\ntransfer-encoding: Chunked\r\n\r\n" + coded
    async with client(plane.port) as c:
        c.writer.write(request + b"000\r\nx-late: 1\r\nhost: b\r\n\r\n")
        got = await c.answer()
        assert got.body == body
        assert b"x-trailer" not in got.headers
        assert (await c.ask(post("/echo", b"again"))).body == b"again"


@pytest.mark.parametrize("trailer", [b"content-length: 5", b"transfer-encoding: chunked"])
async def test_a_trailer_that_speaks_of_framing_is_400(plane: Edge, trailer: bytes) -> None:
    request = (
        b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nZ\r\n0\r\n" + trailer + b"\r\n\r\n"
    )
    async with client(plane.port) as c:
        assert (await c.ask(request)).status == 400
        assert await c.rest() == b""
