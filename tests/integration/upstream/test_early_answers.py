"""Answers that come before the request is complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.core.model import ErrorCode
from gateway.errors import UpstreamError
from gateway.ports import StreamedBody
from gateway.upstream import DropReason
from tests.integration.upstream.harness import get, post, read_all, scripted
from tests.support.raw_upstream import Peer, answer, eventually

TOO_LARGE = answer(b"too large", status=b"413 Content Too Large")


class Source:
    """An upload that never ends of its own accord, and says whether it was closed."""

    def __init__(self, chunk: bytes = b"x" * 65536) -> None:
        self.is_closed = False
        self.is_waiting = False
        self.chunk = chunk
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.is_waiting = not self.go_on.is_set()
                await self.go_on.wait()
                yield self.chunk
        finally:
            self.is_closed = True


@pytest.mark.parametrize("length", [None, 1 << 40], ids=["chunked", "declared"])
async def test_an_answer_that_is_complete_before_the_upload_stops_it(length: int | None) -> None:
    source = Source()
    left_over: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(TOO_LARGE)
        left_over.append(await peer.wait_closed())

    async with scripted(script) as (side, _):
        response = await side.exchange(post(StreamedBody(length, source.chunks())), None)
        assert response.status == 413
        assert await read_all(response) == b"too large"
        assert side.stats().drops == {DropReason.EARLY_ANSWER: 1}
        await eventually(lambda: source.is_closed)
        await eventually(lambda: bool(left_over))
        assert not left_over[0].endswith(b"0\r\n\r\n")


async def test_an_early_answer_to_a_body_of_bytes_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(TOO_LARGE)
        await peer.wait_closed()

    async with scripted(script, receive_buffer=4096) as (side, _):
        response = await side.exchange(post(b"x" * (32 << 20)), None)
        assert await read_all(response) == b"too large"
        assert side.stats().drops == {DropReason.EARLY_ANSWER: 1}


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("attempt", range(10))
async def test_r35_an_early_answer_survives_that_the_side_closes_while_we_send(attempt: int, *, is_reset: bool) -> None:
    """The kernel resets the connection, as unread bytes are left: our writes fail before the answer is read."""
    source = Source()

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await peer.receive_exactly(attempt * 100_000)
        await peer.send(TOO_LARGE)
        peer.close()

    async with scripted(script, receive_buffer=65536 if is_reset else None) as (side, _):
        response = await side.exchange(post(StreamedBody(None, source.chunks())), None)
        assert response.status == 413
        assert await read_all(response) == b"too large"
        await eventually(lambda: source.is_closed)


@pytest.mark.parametrize("chunk", [b"x", b"x" * 40_000], ids=["small", "large"])
async def test_an_answer_that_lies_unread_when_a_write_fails_is_read_from_the_socket(chunk: bytes) -> None:
    """The race of the test above, made certain: the loop gets no turn between the side's close and two writes of ours.

    The first write meets a closed socket and brings the reset, the second one fails; only then the loop may read.
    """
    source = Source(chunk)
    source.go_on.clear()
    peers: list[Peer] = []
    head_seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        peers.append(peer)
        head_seen.set()
        await asyncio.Event().wait()

    async with scripted(script) as (side, _):
        task = asyncio.ensure_future(side.exchange(post(StreamedBody(None, source.chunks())), None))
        await head_seen.wait()
        await eventually(lambda: source.is_waiting)
        source.go_on.set()
        peers[0].send_now(TOO_LARGE)
        peers[0].close()
        response = await task
        assert response.status == 413
        assert await read_all(response) == b"too large"
        await eventually(lambda: source.is_closed)


async def test_a_side_that_dies_during_the_upload_is_an_error_and_closes_the_source() -> None:
    source = Source()

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        peer.reset()

    async with scripted(script) as (side, _):
        with pytest.raises(UpstreamError) as caught:
            await side.exchange(post(StreamedBody(None, source.chunks())), None)
        assert caught.value.code is ErrorCode.UPSTREAM_RESET
        assert caught.value.sent
        await eventually(lambda: source.is_closed)
        assert side.stats().retries == 0


async def test_closing_the_answer_stops_the_upload_and_closes_its_source() -> None:
    source = Source(b"x")
    source.go_on.clear()
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await peer.wait_closed()
        closed.set()

    async with scripted(script) as (side, _):
        response = await side.exchange(post(StreamedBody(None, source.chunks())), None)
        response.close()
        await closed.wait()
        await eventually(lambda: source.is_closed)


async def test_a_source_is_closed_even_when_the_exchange_ends_before_it_is_asked() -> None:
    class Closable:
        def __init__(self) -> None:
            self.closed = 0
            self.never = asyncio.Event()

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            await self.never.wait()
            return b""

        async def aclose(self) -> None:
            self.closed += 1

    source = Closable()

    async def script(peer: Peer) -> None:
        await peer.wait_closed()

    async with scripted(script) as (side, server):
        task = asyncio.ensure_future(side.exchange(post(StreamedBody(5, source)), None))
        await server.accepted(1)
        await eventually(lambda: side.stats().in_use == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: source.closed == 1)


async def test_what_the_source_raises_after_the_head_reaches_the_reader() -> None:
    class ClientLeftError(Exception):
        pass

    fail = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await fail.wait()
        raise ClientLeftError

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await peer.wait_closed()

    async with scripted(script) as (side, _):
        response = await side.exchange(post(StreamedBody(None, body())), None)
        assert await response.read() == b"some"
        fail.set()
        with pytest.raises(ClientLeftError):
            await response.read()
        assert side.stats().drops == {DropReason.UPLOAD_FAILED: 1}


async def test_the_next_exchange_is_untouched_by_an_early_answer() -> None:
    source = Source()

    async def script(peer: Peer) -> None:
        if peer.number:
            await peer.receive_request()
            await peer.send(answer(b"next"))
        else:
            await peer.receive_head()
            await peer.send(TOO_LARGE)
        await peer.wait_closed()

    async with scripted(script) as (side, server):
        await read_all(await side.exchange(post(StreamedBody(None, source.chunks())), None))
        assert await read_all(await side.exchange(get(), None)) == b"next"
        assert len(server.peers) == 2
