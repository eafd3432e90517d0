"""Every phase of an exchange is bounded, and each bound blames the right one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.core.model import ErrorCode
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody, UpstreamRequest
from gateway.upstream import DropReason, SideUpstream, UpstreamLimits
from tests.integration.upstream.harness import fetch, get, let_pass, post, read_all, scripted, side_of, tcp, within
from tests.support.raw_upstream import Peer, Script, answer, eventually, replies

SHORT_S = 0.1
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def silent(peer: Peer) -> None:
    await peer.wait_closed()


async def hung_up_on(side: SideUpstream, request: UpstreamRequest, phase: Phase) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await read_all(await side.exchange(request, None))
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    assert caught.value.phase is phase
    return caught.value


async def test_no_answer_in_time() -> None:
    async with scripted(silent) as (side, server):
        error = await hung_up_on(side, get(deadlines=within(first_byte_s=SHORT_S)), Phase.FIRST_BYTE)
        assert error.sent
        assert side.stats().drops == {DropReason.TIMEOUT: 1}
        # A silent side is not asked again: it may be at work.
        assert side.stats().retries == 0
        assert len(server.peers) == 1


async def test_no_answer_in_time_on_a_kept_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(answer(b"first"))
        await peer.wait_closed()

    async with scripted(script) as (side, server):
        assert await fetch(side, get(deadlines=within(first_byte_s=60.0))) == b"first"
        # A nearer deadline than the one that the timer was last set to.
        await hung_up_on(side, get(deadlines=within(first_byte_s=SHORT_S)), Phase.FIRST_BYTE)
        assert len(server.peers) == 1


async def test_an_interim_answer_is_not_the_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.wait_closed()

    async with scripted(script) as (side, _):
        await hung_up_on(side, get(deadlines=within(first_byte_s=SHORT_S)), Phase.FIRST_BYTE)


async def test_silence_inside_the_body() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(HEAD + b"4\r\nsome\r\n")
        await peer.wait_closed()

    async with scripted(script) as (side, _):
        response = await side.exchange(get(deadlines=within(between_bytes_s=SHORT_S)), None)
        assert await response.read() == b"some"
        with pytest.raises(UpstreamError) as caught:
            await response.read()
        assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_TIMEOUT, Phase.BODY)


async def test_the_whole_exchange_also_while_the_reader_does_not_read() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (8 << 20))

    async with scripted(script) as (side, _):
        response = await side.exchange(get(deadlines=within(total_s=SHORT_S)), None)
        await eventually(lambda: side.stats().in_use == 0)
        with pytest.raises(UpstreamError) as caught:
            await read_all(response)
        assert caught.value.phase is Phase.TOTAL


async def test_no_deadline_where_none_is_set() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await go_on.wait()
        await peer.send(answer(b"late"))

    async with scripted(script) as (side, server):
        deadlines = within(first_byte_s=None, between_bytes_s=None)
        task = asyncio.ensure_future(fetch(side, get(deadlines=deadlines)))
        await server.accepted(1)
        go_on.set()
        assert await task == b"late"


@pytest.mark.parametrize("is_streamed", [False, True], ids=["bytes", "streamed"])
async def test_a_side_that_does_not_take_the_request(*, is_streamed: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await asyncio.Event().wait()

    upload = StreamedBody(None, body()) if is_streamed else b"x" * (32 << 20)
    async with scripted(script, receive_buffer=4096) as (side, _):
        error = await hung_up_on(side, post(upload, deadlines=within(send_s=SHORT_S)), Phase.SEND)
        assert error.sent


async def test_no_connection_in_time() -> None:
    # A listener whose backlog is full: the kernel drops further SYNs, so connecting hangs.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            async with side_of(tcp(port)) as side:
                error = await hung_up_on(side, get(deadlines=within(connect_s=SHORT_S)), Phase.CONNECT)
                assert not error.sent
                error = await hung_up_on(side, get(deadlines=within(total_s=SHORT_S)), Phase.CONNECT)
                assert not error.sent
        finally:
            for filler in fillers:
                filler.close()


async def test_waiting_for_a_connection_counts_as_connecting() -> None:
    limits = UpstreamLimits(connections=1, waiting_s=60.0)
    async with scripted(silent, limits) as (side, server):
        first = asyncio.ensure_future(side.exchange(get(), None))
        await server.accepted(1)
        with pytest.raises(UpstreamError) as caught:
            await side.exchange(get(deadlines=within(connect_s=SHORT_S)), None)
        assert (caught.value.code, caught.value.phase) == (ErrorCode.OVERLOADED, Phase.SELECT)
        assert not caught.value.sent
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


# -- time that passes without sleeping: deadlines of 10 s, steps of 6 s ------------------------------------------------

skipping = pytest.mark.asyncio(loop_factories=["skipping"])
DEADLINE_S = 10.0
STEP_S = 6.0


def dripping(go_on: asyncio.Queue[bytes]) -> Script:
    """Sends the head of an answer, then a chunk for each item of the queue; an empty one ends it."""

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(HEAD)
        while data := await go_on.get():
            await peer.send(b"%x\r\n%b\r\n" % (len(data), data))
        await peer.send(b"0\r\n\r\n")

    return script


@skipping
async def test_a_slow_but_steady_body_is_not_silent() -> None:
    go_on: asyncio.Queue[bytes] = asyncio.Queue()
    async with scripted(dripping(go_on)) as (side, _):
        response = await side.exchange(get(deadlines=within(between_bytes_s=DEADLINE_S)), None)
        for _ in range(5):
            go_on.put_nowait(b"x")
            assert await response.read() == b"x"
            await let_pass(STEP_S)
        go_on.put_nowait(b"")
        assert await response.read() == b""


@skipping
async def test_a_steady_body_does_not_prolong_the_whole_exchange() -> None:
    go_on: asyncio.Queue[bytes] = asyncio.Queue()
    async with scripted(dripping(go_on)) as (side, _):
        deadlines = within(between_bytes_s=DEADLINE_S, total_s=STEP_S * 3)
        response = await side.exchange(get(deadlines=deadlines), None)
        for _ in range(3):
            go_on.put_nowait(b"x")
            assert await response.read() == b"x"
            await let_pass(STEP_S)
        with pytest.raises(UpstreamError) as caught:
            await response.read()
        assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_TIMEOUT, Phase.TOTAL)
        assert caught.value.sent


@skipping
async def test_a_reader_that_pauses_is_not_silence_of_the_side() -> None:
    size = 1 << 20

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        await peer.send(b"x" * size)

    async with scripted(script) as (side, _):
        response = await side.exchange(get(deadlines=within(between_bytes_s=DEADLINE_S)), None)
        received = 0
        for _ in range(3):
            await eventually(lambda: "paused" in repr(response))
            await let_pass(DEADLINE_S * 3)
            received += len(await response.read())
        assert received + len(await read_all(response)) == size


@skipping
async def test_silence_counts_again_once_the_reader_reads_on() -> None:
    size = 1 << 16

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * size)
        await peer.wait_closed()

    async with scripted(script) as (side, _):
        response = await side.exchange(get(deadlines=within(between_bytes_s=DEADLINE_S)), None)
        await eventually(lambda: "paused" in repr(response))
        await let_pass(DEADLINE_S * 3)
        assert len(await response.read()) == size
        await let_pass(DEADLINE_S)
        with pytest.raises(UpstreamError) as caught:
            await response.read()
        assert caught.value.phase is Phase.BODY


@skipping
@pytest.mark.parametrize("is_streamed", [False, True], ids=["bytes", "streamed"])
async def test_a_side_that_takes_the_request_slowly_makes_progress(*, is_streamed: bool) -> None:
    # A step is larger than all kernel buffers, so that the client must have written between two of them.
    step, steps = 8 << 20, 4

    async def body() -> AsyncIterator[bytes]:
        for _ in range(step * steps >> 16):
            yield b"x" * 65536

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        for _ in range(steps):
            await let_pass(STEP_S)
            await peer.receive_exactly(step)
        await peer.send(answer(b"got it"))

    upload = StreamedBody(step * steps, body()) if is_streamed else b"x" * (step * steps)
    async with scripted(script, receive_buffer=16384) as (side, _):
        deadlines = within(send_s=DEADLINE_S, first_byte_s=DEADLINE_S)
        assert await fetch(side, post(upload, deadlines=deadlines)) == b"got it"


@skipping
async def test_a_client_that_sends_slowly_is_not_the_sides_fault() -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            await let_pass(STEP_S)
            yield b"x"

    async with scripted(replies(answer(b"ok"))) as (side, _):
        deadlines = within(send_s=DEADLINE_S, first_byte_s=DEADLINE_S)
        assert await fetch(side, post(StreamedBody(4, body()), deadlines=deadlines)) == b"ok"
