"""Whoever goes away takes the connection along, at once and without leaving anything behind."""

from __future__ import annotations

import asyncio
import socket
from random import Random
from typing import Any

import pytest

from gateway.core.model import ErrorCode, Headers
from gateway.errors import UpstreamError
from gateway.upstream import DropReason, SideUpstream, UpstreamLimits
from gateway.upstream.response import Response
from tests.integration.upstream.harness import LIMITS, fetch, get, post, read_all, scripted, side_of, tcp
from tests.support.raw_upstream import PATIENCE_S, Peer, answer, eventually


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def is_at_rest(side: SideUpstream) -> bool:
    stats = side.stats()
    return (stats.connecting, stats.in_use, stats.waiting) == (0, 0, 0)


async def test_cancelling_before_the_head_closes_the_connection() -> None:
    closed = asyncio.Event()
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        asked.set()
        await peer.wait_closed()
        closed.set()

    async with scripted(script) as (side, _):
        task = asyncio.ensure_future(side.exchange(get(), None))
        await asked.wait()
        await cancelled(task)
        assert is_at_rest(side)
        assert side.stats().drops == {DropReason.CANCELLED: 1}
        await asyncio.wait_for(closed.wait(), PATIENCE_S)


async def test_closing_in_mid_body_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await peer.wait_closed()
        closed.set()

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        assert await response.read() == b"some"
        response.close()
        response.close()
        assert is_at_rest(side)
        assert side.stats().drops == {DropReason.CANCELLED: 1}
        await asyncio.wait_for(closed.wait(), PATIENCE_S)
        with pytest.raises(RuntimeError):
            await response.read()


async def test_closing_wakes_a_reader() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        await peer.wait_closed()

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        reader = asyncio.ensure_future(response.read())
        await eventually(lambda: response.has_reader)
        response.close()
        with pytest.raises(RuntimeError):
            await reader


async def test_closing_after_the_end_keeps_the_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(answer(b"body"))

    async with scripted(script) as (side, server):
        for _ in range(2):
            response = await side.exchange(get(), None)
            assert await read_all(response) == b"body"
            response.close()
        assert len(server.peers) == 1
        assert side.stats().drops == {}


async def test_cancelling_a_read_leaves_the_answer_readable() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        await go_on.wait()
        await peer.send(b"body")

    async with scripted(script) as (side, _):
        response = await side.exchange(get(), None)
        reader = asyncio.ensure_future(response.read())
        await eventually(lambda: response.has_reader)
        await cancelled(reader)
        go_on.set()
        assert await read_all(response) == b"body"


async def test_cancelling_while_connecting_frees_the_place() -> None:
    # A full backlog: the kernel drops further SYNs, so connecting hangs.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            async with side_of(tcp(port), limits=UpstreamLimits(connections=1, waiting_s=PATIENCE_S)) as side:
                connecting = asyncio.ensure_future(side.exchange(get(), None))
                await eventually(lambda: side.stats().connecting == 1)
                waiting = asyncio.ensure_future(side.exchange(get(), None))
                await eventually(lambda: side.stats().waiting == 1)
                await cancelled(connecting)
                # The place went to the one that waited.
                await eventually(lambda: side.stats().waiting == 0)
                assert side.stats().connecting == 1
                await cancelled(waiting)
                assert is_at_rest(side)
        finally:
            for filler in fillers:
                filler.close()


async def test_cancelling_while_waiting_leaves_the_line() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await go_on.wait()
            await peer.send(answer(b"ok"))

    async with scripted(script, UpstreamLimits(connections=1, waiting_s=PATIENCE_S)) as (side, server):
        first = asyncio.ensure_future(fetch(side))
        await server.accepted(1)
        second = asyncio.ensure_future(fetch(side))
        await eventually(lambda: side.stats().waiting == 1)
        third = asyncio.ensure_future(fetch(side))
        await eventually(lambda: side.stats().waiting == 2)
        await cancelled(second)
        assert side.stats().waiting == 1
        go_on.set()
        assert list(await asyncio.gather(first, third)) == [b"ok", b"ok"]
        assert is_at_rest(side)


async def test_a_grant_that_meets_a_cancellation_goes_to_the_next_in_line() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await go_on.wait()
            await peer.send(answer(b"ok"))

    async with scripted(script, UpstreamLimits(connections=1, waiting_s=PATIENCE_S)) as (side, server):

        class CancelsTheNext(Response):
            def answer_completed(self, trailers: Headers) -> None:
                # The connection was given to the second in the same turn, and that one has not run yet.
                assert side.stats().waiting == 1
                second.abandon()
                super().answer_completed(trailers)

        first = CancelsTheNext(LIMITS.body_buffer_bytes, asyncio.get_running_loop())
        first.attach(side.send(get(), None, first))
        await server.accepted(1)
        never = Response(LIMITS.body_buffer_bytes, asyncio.get_running_loop())
        second = side.send(get(), None, never)
        await eventually(lambda: side.stats().waiting == 1)
        third = asyncio.ensure_future(fetch(side))
        await eventually(lambda: side.stats().waiting == 2)
        go_on.set()
        await first.head
        assert await read_all(first) == b"ok"
        assert await third == b"ok"
        assert not never.head.done()
        assert is_at_rest(side)
        assert len(server.peers) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_cancellations_leaves_nothing_behind(seed: int) -> None:
    random = Random(seed)

    async def script(peer: Peer) -> None:
        luck = Random(f"{seed} {peer.number}")
        while True:
            await peer.receive_request()
            match luck.randrange(6):
                case 0:
                    return
                case 1:
                    peer.reset()
                    return
                case 2:
                    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                    return
                case 3:
                    await peer.send_in_pieces(answer(b"in pieces"), 7)
                case _:
                    await peer.send(answer(b"x" * 100_000))

    async def one(side: SideUpstream) -> None:
        try:
            await fetch(side, random.choice([get(), post(b"x" * 1000)]))
        except UpstreamError as error:
            assert error.code in (ErrorCode.UPSTREAM_RESET, ErrorCode.OVERLOADED)  # noqa: PT017 -- which ones may come

    async def a_few_turns_of_the_loop() -> None:
        for _ in range(random.randrange(4)):
            turned = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turned.set_result, None)
            await turned

    limits = UpstreamLimits(connections=4, waiting=20, waiting_s=PATIENCE_S)
    async with scripted(script, limits) as (side, _):
        started: list[asyncio.Task[None]] = []
        for _ in range(800):
            started.append(asyncio.ensure_future(one(side)))
            await a_few_turns_of_the_loop()
            running = [task for task in started if not task.done()]
            if running and random.random() < 0.5:
                random.choice(running).cancel()
        for task in started[::2]:
            task.cancel()
        await asyncio.wait(started)
        outcomes = [task.exception() for task in started if not task.cancelled()]
        assert set(outcomes) == {None}
        assert is_at_rest(side)
        # The storm was one: many of both kinds.
        assert 100 < len(outcomes) < 700
        # And it still works.
        for _ in range(200):
            try:
                assert await fetch(side)
            except UpstreamError:
                continue
            break
        else:
            pytest.fail("no exchange succeeds any more")


async def test_closing_the_client_ends_running_exchanges_and_waiting_ones() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        if peer.number == 0:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await peer.wait_closed()

    async with scripted(script, UpstreamLimits(connections=2, waiting_s=LIMITS.waiting_s)) as (side, server):
        reading = await side.exchange(get(), None)
        asked = asyncio.ensure_future(side.exchange(get(), None))
        await server.accepted(2)
        waiting = asyncio.ensure_future(side.exchange(get(), None))
        await eventually(lambda: side.stats().waiting == 1)
        await side.aclose()
        assert await reading.read() == b"half"
        for ended in (reading.read(), asked, waiting, side.exchange(get(), None)):
            with pytest.raises(UpstreamError):
                await ended
        assert is_at_rest(side)
