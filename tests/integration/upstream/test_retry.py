"""One retry, only where it cannot do harm, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.core.model import ErrorCode
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody, UpstreamRequest
from gateway.upstream import DropReason, UpstreamLimits
from tests.integration.upstream.harness import LIMITS, fetch, get, post, scripted
from tests.support.raw_upstream import Peer, RawRequest, Script, answer

GOOD = answer(b"good")


def dies_on_second_request(
    seen: list[tuple[int, RawRequest]], *, last_words: bytes = b"", is_reset: bool = False
) -> Script:
    """The first connection answers one request, reads the second, and dies; later ones live."""

    async def script(peer: Peer) -> None:
        while True:
            seen.append((peer.number, await peer.receive_request()))
            is_first = [number for number, _ in seen].count(peer.number) == 1
            if peer.number == 0 and not is_first:
                await peer.send(last_words)
                if is_reset:
                    peer.reset()
                return
            await peer.send(GOOD)

    return script


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "request_", [get(), post(b"body", may_retry=True), post(b"", may_retry=True)], ids=["get", "post", "empty-post"]
)
async def test_a_request_that_may_be_is_sent_again_when_a_kept_connection_died(
    request_: UpstreamRequest, *, is_reset: bool
) -> None:
    seen: list[tuple[int, RawRequest]] = []
    async with scripted(dies_on_second_request(seen, is_reset=is_reset)) as (side, _):
        assert await fetch(side) == b"good"
        assert await fetch(side, request_) == b"good"
        assert [number for number, _ in seen] == [0, 0, 1]
        assert seen[1][1].raw == seen[2][1].raw
        assert side.stats().retries == 1
        assert side.stats().drops == {DropReason.RESET: 1}


async def test_a_request_that_may_not_be_is_never_sent_again() -> None:
    seen: list[tuple[int, RawRequest]] = []
    async with scripted(dies_on_second_request(seen)) as (side, _):
        assert await fetch(side) == b"good"
        with pytest.raises(UpstreamError) as caught:
            await fetch(side, post(b"body"))
        assert caught.value.code is ErrorCode.UPSTREAM_RESET
        assert caught.value.phase is Phase.FIRST_BYTE
        assert caught.value.sent
        assert len(seen) == 2
        assert side.stats().retries == 0


async def test_a_streamed_body_is_never_sent_again() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    seen: list[tuple[int, RawRequest]] = []
    async with scripted(dies_on_second_request(seen)) as (side, _):
        assert await fetch(side) == b"good"
        with pytest.raises(UpstreamError) as caught:
            await fetch(side, post(StreamedBody(None, body()), may_retry=True))
        assert caught.value.code is ErrorCode.UPSTREAM_RESET
        assert len(seen) == 2


@pytest.mark.parametrize("last_words", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_nothing_is_sent_again_after_a_byte_of_an_answer(last_words: bytes) -> None:
    seen: list[tuple[int, RawRequest]] = []
    async with scripted(dies_on_second_request(seen, last_words=last_words)) as (side, _):
        assert await fetch(side) == b"good"
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert caught.value.code is ErrorCode.UPSTREAM_RESET
        assert len(seen) == 2
        assert side.stats().retries == 0


async def test_a_fresh_connection_that_dies_is_not_retried() -> None:
    seen: list[RawRequest] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.receive_request())

    async with scripted(script) as (side, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert caught.value.code is ErrorCode.UPSTREAM_RESET
        assert len(seen) == 1
        assert side.stats().retries == 0


async def test_there_is_no_second_retry() -> None:
    seen: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        seen.append(peer.number)
        if peer.number == 0:
            await peer.send(GOOD)
            await peer.receive_request()
            seen.append(peer.number)

    async with scripted(script) as (side, server):
        assert await fetch(side) == b"good"
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert caught.value.code is ErrorCode.UPSTREAM_RESET
        assert seen == [0, 0, 1]
        assert len(server.peers) == 2
        assert side.stats().retries == 1


@pytest.mark.parametrize("connections", [2, 8], ids=["pool-full", "pool-free"])
async def test_a_retry_goes_to_a_fresh_connection_even_when_others_are_idle(connections: int) -> None:
    """An idle one may be just as dead: the side restarted."""
    served: list[int] = []
    both_asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        served.append(peer.number)
        if len(served) >= 2:
            both_asked.set()
        await both_asked.wait()
        await peer.send(GOOD)
        await peer.receive_request()
        served.append(peer.number)

    limits = UpstreamLimits(connections=connections, waiting_s=LIMITS.waiting_s)
    async with scripted(script, limits) as (side, server):
        assert list(await asyncio.gather(fetch(side), fetch(side))) == [b"good", b"good"]
        assert side.stats().idle == 2
        assert await fetch(side) == b"good"
        assert side.stats().retries == 1
        assert len(server.peers) == 3
        assert served[3] == 2


async def test_a_retry_that_cannot_connect_says_that_something_was_sent() -> None:
    listening: list[Peer] = []

    async def script(peer: Peer) -> None:
        listening.append(peer)
        await peer.receive_request()
        await peer.send(GOOD)
        await peer.receive_request()
        server.stop_listening()

    async with scripted(script) as (side, server):
        assert await fetch(side) == b"good"
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert caught.value.code is ErrorCode.UPSTREAM_REFUSED
        assert caught.value.sent
        assert side.stats().retries == 1
