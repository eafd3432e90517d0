"""An exchange as it should go: request on the wire, answer back, connection reused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.core.model import ErrorCode
from gateway.errors import UpstreamError
from gateway.ports import StreamedBody
from gateway.upstream import DropReason
from tests.integration.upstream.harness import fetch, get, post, read_all, scripted
from tests.support.raw_upstream import Peer, RawRequest, Script, answer, chunked_answer, eventually, replies


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def recording(requests: list[RawRequest], reply: bytes) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            requests.append(await peer.receive_request())
            await peer.send(reply)

    return script


async def test_an_answer_arrives_with_its_status_fields_and_body() -> None:
    reply = answer(b"hello", b"X-Thing: A", b"x-thing: b", b"Set-Cookie: c=1", status=b"201 Created")
    async with scripted(replies(reply)) as (side, server):
        response = await side.exchange(get(), None)
        assert response.status == 201
        assert response.length == 5
        assert response.instance == f"http://127.0.0.1:{server.port}"
        assert response.headers == [
            (b"content-length", b"5"),
            (b"x-thing", b"A"),
            (b"x-thing", b"b"),
            (b"set-cookie", b"c=1"),
        ]
        assert await read_all(response) == b"hello"
        assert await response.read() == b""


async def test_a_request_goes_out_byte_exact_with_framing_of_its_own() -> None:
    requests: list[RawRequest] = []
    async with scripted(recording(requests, answer())) as (side, _):
        headers = [(b"host", b"h"), (b"content-length", b"99"), (b"transfer-encoding", b"chunked"), (b"x", b"\xff y")]
        await fetch(side, get(b"/a/../b%2F?x=%zz", headers=headers))
        await fetch(side, post(b"hi", headers=headers))
        await fetch(side, post(b"", headers=headers))
        await fetch(side, post(StreamedBody(None, pieces(b"one", b"two")), headers=headers))
        await fetch(side, post(StreamedBody(6, pieces(b"one", b"two")), headers=headers))
    common = b"host: h\r\nx: \xff y\r\n"
    assert [request.raw for request in requests] == [
        b"GET /a/../b%2F?x=%zz HTTP/1.1\r\n" + common + b"\r\n",
        b"POST / HTTP/1.1\r\n" + common + b"content-length: 2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\n" + common + b"content-length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + common + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + common + b"content-length: 6\r\n\r\nonetwo",
    ]


async def test_a_connection_is_kept_alive_and_used_again() -> None:
    async with scripted(replies(answer(b"1"), chunked_answer(b"2"), answer(b"3"))) as (side, server):
        assert [await fetch(side) for _ in range(4)] == [b"1", b"2", b"3", b"3"]
        assert len(server.peers) == 1
        stats = side.stats()
        assert (stats.idle, stats.in_use) == (1, 0)
        assert stats.drops == {}


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"x", b"Connection: close"),
        answer(b"x", b"Connection: Keep-Alive, Close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx",
    ],
    ids=["close", "close-in-list", "http-1.0"],
)
async def test_a_connection_that_the_side_closes_is_not_used_again(reply: bytes) -> None:
    async with scripted(replies(reply)) as (side, server):
        assert [await fetch(side) for _ in range(2)] == [b"x", b"x"]
        assert len(server.peers) == 2
        assert side.stats().drops == {DropReason.SIDE_CLOSES: 2}


async def test_an_answer_ends_with_the_connection_where_nothing_else_delimits_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of ")
        await peer.send(b"it")

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        assert response.length is None
        assert await read_all(response) == b"all of it"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("field", [b"content-length: 5", b"transfer-encoding: chunked", b"x: y"])
async def test_an_answer_without_body_has_none_whatever_its_fields_say(status: bytes, field: bytes) -> None:
    async with scripted(replies(b"HTTP/1.1 " + status + b"\r\n" + field + b"\r\n\r\n")) as (side, server):
        for _ in range(2):
            response = await side.exchange(get(), None)
            assert response.length == 0
            assert await response.read() == b""
        assert len(server.peers) == 1


@pytest.mark.parametrize("field", [b"content-length: 5", b"transfer-encoding: chunked", b"x: y"])
async def test_an_answer_to_head_has_no_body_and_keeps_its_fields(field: bytes) -> None:
    async with scripted(replies(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")) as (side, server):
        for _ in range(2):
            response = await side.exchange(get(method=b"HEAD"), None)
            assert response.headers == [tuple(field.split(b": "))]
            assert response.length == 0
            assert await response.read() == b""
        assert len(server.peers) == 1


async def test_interim_answers_are_swallowed() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\n"
    async with scripted(replies(interim + answer(b"final"))) as (side, server):
        assert [await fetch(side) for _ in range(2)] == [b"final", b"final"]
        assert len(server.peers) == 1


async def test_a_head_and_a_body_may_come_byte_by_byte() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send_in_pieces(chunked_answer(b"drip", b"drop", trailers=b"t: v\r\n"))

    async with scripted(script) as (side, server):
        assert [await fetch(side) for _ in range(2)] == [b"dripdrop", b"dripdrop"]
        assert len(server.peers) == 1


async def test_an_answer_may_begin_before_the_upload_ends() -> None:
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first "
        await go_on.wait()
        yield b"second"

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            received = await peer.receive_until(b"\r\n0\r\n\r\n")
            await peer.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(received), received))

    async with scripted(script) as (side, _):
        response = await side.exchange(post(StreamedBody(None, body())), None)
        assert response.status == 200
        go_on.set()
        assert await read_all(response) == b"6\r\nfirst \r\n6\r\nsecond\r\n0\r\n\r\n"
        assert side.stats().idle == 1


@pytest.mark.parametrize("length", [5, 7], ids=["too-many", "too-few"])
async def test_a_body_of_another_length_than_declared_is_never_completed(length: int) -> None:
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        received.append(await peer.wait_closed())

    async with scripted(script) as (side, _):
        with pytest.raises(UpstreamError) as caught:
            await side.exchange(post(StreamedBody(length, pieces(b"one", b"two"))), None)
        assert caught.value.code is ErrorCode.BAD_REQUEST
        await eventually(lambda: bool(received))
        assert len(received[0]) != length
        assert side.stats().drops == {DropReason.UPLOAD_FAILED: 1}


async def test_what_the_body_raises_reaches_the_caller_and_closes_the_connection() -> None:
    class ClientLeftError(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        raise ClientLeftError

    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        received.append(await peer.wait_closed())

    async with scripted(script) as (side, _):
        with pytest.raises(ClientLeftError):
            await side.exchange(post(StreamedBody(None, body())), None)
        await eventually(lambda: bool(received))
        assert not received[0].endswith(b"0\r\n\r\n")


async def test_a_request_that_would_break_its_own_head_is_not_sent() -> None:
    async with scripted(replies(answer())) as (side, server):
        for bad in (
            get(b"/a b"),
            get(b"/\r\nx: y"),
            get(headers=[(b"x", b"a\r\nb: c")]),
            get(headers=[(b"x", b"a\nb")]),
            get(headers=[(b"x", b"\0")]),
            get(method=b"GET /"),
        ):
            with pytest.raises(UpstreamError) as caught:
                await side.exchange(bad, None)
            assert caught.value.code is ErrorCode.BAD_REQUEST
            assert not caught.value.sent
        assert server.peers == []
