"""How many connections there are, who waits, how they age and how a side is replaced."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.core.model import ErrorCode, Instance
from gateway.errors import Phase, UpstreamError
from gateway.upstream import DropReason, UpstreamLimits
from tests.integration.upstream.harness import LIMITS, fetch, get, let_pass, read_all, scripted, side_of, tcp
from tests.support.raw_upstream import PATIENCE_S, Peer, RawUpstream, Script, answer, eventually, replies

GOOD = answer(b"good")
skipping = pytest.mark.asyncio(loop_factories=["skipping"])


def held(go_on: asyncio.Event) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await go_on.wait()
            await peer.send(GOOD)

    return script


async def test_connections_and_waiting_exchanges_are_bounded() -> None:
    go_on = asyncio.Event()
    async with scripted(held(go_on), UpstreamLimits(connections=2, waiting=3, waiting_s=PATIENCE_S)) as (side, server):
        tasks = [asyncio.ensure_future(fetch(side)) for _ in range(5)]
        await server.accepted(2)
        await eventually(lambda: side.stats().waiting == 3)
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert (caught.value.code, caught.value.phase) == (ErrorCode.OVERLOADED, Phase.SELECT)
        assert not caught.value.sent
        go_on.set()
        assert list(await asyncio.gather(*tasks)) == [b"good"] * 5
        assert len(server.peers) == 2
        assert side.stats().idle == 2


async def test_a_wait_for_a_connection_is_bounded() -> None:
    go_on = asyncio.Event()
    async with scripted(held(go_on), UpstreamLimits(connections=1, waiting_s=0.1)) as (side, server):
        first = asyncio.ensure_future(fetch(side))
        await server.accepted(1)
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert (caught.value.code, caught.value.phase) == (ErrorCode.OVERLOADED, Phase.SELECT)
        assert side.stats().waiting == 0
        go_on.set()
        assert await first == b"good"


async def test_who_waits_longest_is_served_first() -> None:
    go_on = asyncio.Event()
    served: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            served.append(request.line.split()[1])
            await go_on.wait()
            await peer.send(GOOD)

    async with scripted(script, UpstreamLimits(connections=1, waiting_s=PATIENCE_S)) as (side, _):
        tasks = []
        for number in range(5):
            tasks.append(asyncio.ensure_future(fetch(side, get(b"/%d" % number))))
            await eventually(lambda: side.stats().waiting == len(tasks) - 1 and len(served) == 1)
        go_on.set()
        await asyncio.gather(*tasks)
        assert served == [b"/0", b"/1", b"/2", b"/3", b"/4"]


async def test_a_place_freed_by_a_broken_connection_goes_to_who_waits() -> None:
    break_now = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        if peer.number == 0:
            await break_now.wait()
            peer.reset()
            return
        await peer.send(GOOD)
        await peer.wait_closed()

    async with scripted(script, UpstreamLimits(connections=1, waiting_s=PATIENCE_S)) as (side, _):
        first = asyncio.ensure_future(fetch(side))
        await eventually(lambda: side.stats().in_use == 1)
        second = asyncio.ensure_future(fetch(side))
        await eventually(lambda: side.stats().waiting == 1)
        break_now.set()
        with pytest.raises(UpstreamError):
            await first
        assert await second == b"good"


async def test_the_connection_used_last_is_used_first() -> None:
    both = asyncio.Event()
    served: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            served.append(peer.number)
            if len(served) >= 2:
                both.set()
            await both.wait()
            await peer.send(answer(b"%d" % peer.number))

    async with scripted(script) as (side, _):
        await asyncio.gather(fetch(side), fetch(side))
        assert side.stats().idle == 2
        last = await fetch(side)
        assert [await fetch(side) for _ in range(3)] == [last] * 3


async def test_more_idle_connections_than_wanted_are_closed() -> None:
    go_on = asyncio.Event()
    limits = UpstreamLimits(idle_connections=2, waiting_s=PATIENCE_S)
    async with scripted(held(go_on), limits) as (side, server):
        tasks = [asyncio.ensure_future(fetch(side)) for _ in range(5)]
        await server.accepted(5)
        go_on.set()
        await asyncio.gather(*tasks)
        assert side.stats().idle == 2
        assert side.stats().drops == {DropReason.IDLE_SURPLUS: 3}


@skipping
async def test_idle_connections_grow_old_and_are_closed() -> None:
    go_on = asyncio.Event()
    limits = UpstreamLimits(idle_timeout_s=100.0, waiting_s=PATIENCE_S)
    async with scripted(held(go_on), limits) as (side, server):
        tasks = [asyncio.ensure_future(fetch(side)) for _ in range(3)]
        await server.accepted(3)
        go_on.set()
        await asyncio.gather(*tasks)
        assert side.stats().idle == 3
        # One is used now and then, the others are not.
        await let_pass(60.0)
        await fetch(side)
        assert side.stats().idle == 3
        await let_pass(60.0)
        assert side.stats().idle == 1
        assert side.stats().drops == {DropReason.IDLE_TIMEOUT: 2}
        await let_pass(60.0)
        assert side.stats().idle == 0
        # The timer starts again with the next one.
        await fetch(side)
        assert side.stats().idle == 1
        await let_pass(120.0)
        assert side.stats().idle == 0


async def test_an_idle_connection_that_the_side_closes_is_let_go() -> None:
    close_now = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(GOOD)
        await close_now.wait()

    async with scripted(script) as (side, server):
        await fetch(side)
        close_now.set()
        await eventually(lambda: side.stats().idle == 0)
        assert side.stats().drops == {DropReason.STALE: 1}
        assert await fetch(side) == b"good"
        assert len(server.peers) == 2


async def test_a_refused_connection_is_an_error_and_nothing_was_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with side_of(tcp(port)) as side:
            for _ in range(3):
                with pytest.raises(UpstreamError) as caught:
                    await fetch(side)
                assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_REFUSED, Phase.CONNECT)
                assert not caught.value.sent
                assert "ECONNREFUSED" in caught.value.detail


async def test_a_unix_socket_serves(tmp_path: Path) -> None:
    path = tmp_path / "s"
    instance = Instance(f"unix:{path}", "", 0, unix_path=str(path))
    async with RawUpstream(replies(GOOD), unix_path=path) as server, side_of(instance) as side:
        assert [await fetch(side) for _ in range(2)] == [b"good", b"good"]
        assert len(server.peers) == 1


async def test_a_missing_unix_socket_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "missing"
    async with side_of(Instance(f"unix:{path}", "", 0, unix_path=str(path))) as side:
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_REFUSED, Phase.CONNECT)
        assert not caught.value.sent


async def test_a_side_that_closes_every_connection_at_once_is_an_error() -> None:
    async def script(peer: Peer) -> None:
        peer.reset()

    async with scripted(script) as (side, _):
        for _ in range(10):
            with pytest.raises(UpstreamError) as caught:
                await fetch(side)
            assert caught.value.code is ErrorCode.UPSTREAM_RESET
        stats = side.stats()
        assert (stats.connecting, stats.idle, stats.in_use) == (0, 0, 0)


async def test_small_segments_are_not_delayed() -> None:
    """TCP_NODELAY is set; without it the second of two small writes waits for an acknowledgement."""
    async with scripted(replies(GOOD)) as (side, _):
        await fetch(side)
        pool = side._pools[0]
        connection = next(iter(pool._idle))
        transport = connection._transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_retired_client_finishes_what_runs_and_keeps_nothing() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
            await go_on.wait()
            await peer.send(b"good")

    async with scripted(script, UpstreamLimits(connections=1, waiting_s=LIMITS.waiting_s)) as (side, server):
        running = await side.exchange(get(), None)
        waiting = asyncio.ensure_future(fetch(side))
        await eventually(lambda: side.stats().waiting == 1)
        side.retire()
        go_on.set()
        assert await read_all(running) == b"good"
        assert await waiting == b"good"
        stats = side.stats()
        assert (stats.idle, stats.in_use, stats.waiting) == (0, 0, 0)
        # Whoever still holds the old client can use it, without keeping connections.
        assert await fetch(side) == b"good"
        assert side.stats().idle == 0
        assert len(server.peers) == 2
        assert side.stats().drops == {DropReason.RETIRED: 2}


async def test_retiring_closes_idle_connections() -> None:
    async with scripted(replies(GOOD)) as (side, _):
        await fetch(side)
        assert side.stats().idle == 1
        side.retire()
        assert side.stats().idle == 0
