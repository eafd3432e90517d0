"""Neither a slow reader nor a slow side makes the gateway buffer more than its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from resource import RUSAGE_SELF, getrusage

import pytest

from gateway.ports import StreamedBody
from gateway.upstream import UpstreamLimits
from tests.integration.upstream.harness import fetch, get, post, read_all, scripted
from tests.support.raw_upstream import Peer, answer, eventually

PIECE = b"x" * 65536


async def test_an_answer_is_read_only_as_fast_as_its_reader_reads() -> None:
    sent = 0
    size = 64 << 20

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // len(PIECE)):
            await peer.send(PIECE)
            sent += len(PIECE)

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        await eventually(lambda: "paused" in repr(response))
        first = await response.read()
        # The high-water mark and one segment (uvloop reads up to 256 KiB at a time).
        assert len(first) <= 64 * 1024 + 256 * 1024
        await eventually(lambda: "paused" in repr(response))
        # What is on the way fits the kernel's buffers; the side is far from done.
        assert sent < size / 2
        assert len(first) + len(await read_all(response)) == size
        assert side.stats().idle == 1


async def test_an_upload_is_taken_from_its_source_only_as_fast_as_the_side_reads() -> None:
    taken = 0
    size = 64 << 20
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(size // len(PIECE)):
            taken += len(PIECE)
            yield PIECE

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await go_on.wait()
        received = len(await peer.receive_exactly(size))
        await peer.send(answer(b"%d" % received))

    async with scripted(script, receive_buffer=65536) as (side, server):
        task = asyncio.ensure_future(fetch(side, post(StreamedBody(size, body()))))
        await server.accepted(1)
        await eventually(lambda: "writing paused" in repr(side))
        assert taken < size / 2
        go_on.set()
        assert await task == b"%d" % size


async def test_a_large_body_goes_both_ways_at_once() -> None:
    size = 16 << 20

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // len(PIECE)):
            yield PIECE

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        left = size
        while left:
            data = await peer.receive()
            left -= len(data)
            await peer.send(data)

    async with scripted(script, receive_buffer=65536) as (side, _):
        response = await side.exchange(post(StreamedBody(size, body())), None)
        assert len(await read_all(response)) == size
        assert side.stats().idle == 1


@pytest.mark.parametrize("direction", ["down", "down-chunked", "up"])
async def test_256_mib_need_no_memory(direction: str) -> None:
    size, pieces = 256 << 20, 4096

    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield PIECE

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        if direction == "up":
            left = size
            while left:
                left -= len(await peer.receive())
            await peer.send(answer(b"ok"))
        elif direction == "down":
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(pieces):
                await peer.send(PIECE)
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(pieces):
                await peer.send(b"10000\r\n" + PIECE + b"\r\n")
            await peer.send(b"0\r\n\r\n")

    async with scripted(script) as (side, _):
        before_kib = getrusage(RUSAGE_SELF).ru_maxrss
        if direction == "up":
            assert await fetch(side, post(StreamedBody(size, body()))) == b"ok"
        else:
            received = 0
            response = await side.exchange(get(), None)
            while data := await response.read():
                received += len(data)
            assert received == size
        assert getrusage(RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


async def test_a_completed_answer_waits_for_a_late_reader_without_its_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(answer(PIECE * 3))

    async with scripted(script, UpstreamLimits(body_buffer_bytes=1 << 20)) as (side, server):
        unread = await side.exchange(get(), None)
        await eventually(lambda: side.stats().idle == 1)
        assert await fetch(side) == PIECE * 3
        assert await read_all(unread) == PIECE * 3
        assert len(server.peers) == 1


async def test_an_answer_read_late_leaves_its_connection_readable() -> None:
    """The pause of a full buffer does not outlive the exchange: an idle connection notices its end."""
    close_now = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(answer(PIECE))  # exactly the high-water mark: paused and complete at once
        await close_now.wait()

    async with scripted(script) as (side, _):
        assert await fetch(side) == PIECE
        assert side.stats().idle == 1
        close_now.set()
        await eventually(lambda: side.stats().idle == 0)
