"""What a side may send that a second request must never see, nor a client as a clean answer."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.model import ErrorCode
from gateway.errors import Phase, UpstreamError
from gateway.upstream import DropReason, UpstreamLimits
from tests.integration.upstream.harness import fetch, get, read_all, scripted
from tests.support.raw_upstream import Peer, Script, answer, chunked_answer, eventually, replies

POISON = answer(b"POISON")
GOOD = answer(b"good")
HEAD_ONLY = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n"


def once(first: bytes) -> Script:
    """The first connection answers `first`, every later one answers well; none closes of its own accord."""

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(GOOD if peer.number else first)
        await peer.wait_closed()

    return script


@pytest.mark.parametrize("surplus", [POISON, b"\r\n", b"\0", b"x"], ids=["answer", "empty-line", "nul", "letter"])
@pytest.mark.parametrize(
    ("method", "first", "body"),
    [
        (b"GET", answer(b"mine"), b"mine"),
        (b"GET", chunked_answer(b"mine"), b"mine"),
        (b"GET", answer(b""), b""),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\n", b""),
        (b"HEAD", HEAD_ONLY, b""),
    ],
    ids=["length", "chunked", "empty", "204", "304", "head"],
)
async def test_a_surplus_byte_in_the_same_segment_closes_the_connection_and_reaches_nobody(
    method: bytes, first: bytes, body: bytes, surplus: bytes
) -> None:
    async with scripted(once(first + surplus)) as (side, server):
        assert await fetch(side, get(method=method)) == body
        assert side.stats().drops == {DropReason.SURPLUS: 1}
        assert side.stats().idle == 0
        assert await fetch(side) == b"good"
        assert len(server.peers) == 2
        assert side.stats().retries == 0


@pytest.mark.parametrize("surplus", [POISON, b"\r\n", b"\0"], ids=["answer", "empty-line", "nul"])
async def test_bytes_on_an_idle_connection_close_it(surplus: bytes) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(GOOD)
        if not peer.number:
            await go_on.wait()
            await peer.send(surplus)
        await peer.wait_closed()

    async with scripted(script) as (side, server):
        assert await fetch(side) == b"good"
        assert side.stats().idle == 1
        go_on.set()
        await eventually(lambda: side.stats().idle == 0)
        assert side.stats().drops == {DropReason.SURPLUS: 1}
        assert await fetch(side) == b"good"
        assert len(server.peers) == 2


async def test_bytes_that_the_loop_has_not_read_yet_do_not_become_the_next_answer() -> None:
    """The socket itself is asked before reuse: the event loop may be behind."""
    poisoned: list[Peer] = []

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(GOOD)
        if not peer.number:
            poisoned.append(peer)
        await peer.wait_closed()

    async with scripted(script) as (side, server):
        assert await fetch(side) == b"good"
        assert side.stats().idle == 1
        # Sent and asked for in the same turn of the loop, so nothing was read in between.
        poisoned[0].send_now(POISON)
        assert await fetch(side, get(may_retry=False)) == b"good"
        assert len(server.peers) == 2
        assert side.stats().drops == {DropReason.STALE: 1}
        assert side.stats().retries == 0


async def test_a_close_that_the_loop_has_not_seen_yet_is_seen_before_reuse() -> None:
    first: list[Peer] = []

    async def script(peer: Peer) -> None:
        first.append(peer)
        await peer.receive_request()
        await peer.send(GOOD)
        await peer.wait_closed()

    async with scripted(script) as (side, server):
        assert await fetch(side) == b"good"
        first[0].finish()
        # Not retryable, and yet no error: nothing was sent on the dead one.
        assert await fetch(side, get(may_retry=False)) == b"good"
        assert len(server.peers) == 2
        assert side.stats().retries == 0


INVALID = {
    "R03-length-and-coding": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "R05-equal-lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 3\r\n\r\nabc",
    "R13-unasked-101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "R14-interim-flood": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + GOOD,
    "R17-bare-lf": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "R18-fold": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "R19-space-before-colon": b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
    "R24-status-999": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
    "R27-long-header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 20) + b"\r\ncontent-length: 0\r\n\r\n",
    "R28-many-headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000 + b"content-length: 0\r\n\r\n",
    "R29-gzip-chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "negative-length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n",
    "cr": b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
    "html": b"<html>no http here</html>",
    "endless-line": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 17),
}


@pytest.mark.parametrize("reply", INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_answer_is_an_error_and_its_connection_is_closed(reply: bytes) -> None:
    async with scripted(once(reply)) as (side, _):
        with pytest.raises(UpstreamError) as caught:
            await side.exchange(get(), None)
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID
        assert caught.value.phase is Phase.FIRST_BYTE
        assert caught.value.sent
        assert side.stats().drops == {DropReason.INVALID: 1}
        assert await fetch(side) == b"good"
        assert side.stats().retries == 0


TRUNCATED = {
    "R20-length": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
    "R21-chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
    "no-last-chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "no-end-of-trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
}


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("reply", TRUNCATED.values(), ids=TRUNCATED.keys())
async def test_a_cut_off_answer_ends_in_an_error_after_its_bytes(reply: bytes, *, is_reset: bool) -> None:
    head_seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(reply)
        if is_reset:
            await head_seen.wait()
            peer.reset()

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        assert await response.read() == b"half"
        head_seen.set()
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await response.read()
            assert caught.value.code is ErrorCode.UPSTREAM_RESET
            assert caught.value.phase is Phase.BODY
        assert side.stats().retries == 0
        response.close()
        assert side.stats().drops == {DropReason.RESET: 1}


async def test_a_reset_is_no_end_of_an_answer_that_ends_with_the_connection() -> None:
    head_seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await head_seen.wait()
        peer.reset()

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        head_seen.set()
        with pytest.raises(UpstreamError) as caught:
            await read_all(response)
        assert caught.value.code is ErrorCode.UPSTREAM_RESET


async def test_a_broken_chunk_after_good_ones_is_an_error_after_their_bytes() -> None:
    reply = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0x1\r\n"
    async with scripted(replies(reply)) as (side, _):
        response = await side.exchange(get(), None)
        assert await response.read() == b"good"
        with pytest.raises(UpstreamError) as caught:
            await response.read()
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID
        assert caught.value.phase is Phase.BODY


async def test_chunk_extensions_are_bounded_while_the_body_is_read() -> None:
    reply = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n1;" + b"e" * (1 << 20)
    async with scripted(replies(reply)) as (side, _):
        with pytest.raises(UpstreamError) as caught:
            await read_all(await side.exchange(get(), None))
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID


async def test_limits_are_those_given() -> None:
    limits = UpstreamLimits(header_fields=2)
    async with scripted(replies(answer(b"", b"a: b"), answer(b"", b"a: b", b"c: d")), limits) as (side, _):
        assert await fetch(side) == b""
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID
