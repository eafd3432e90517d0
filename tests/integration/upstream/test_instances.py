"""Several instances of a side: who serves a key, and who is left alone for a while."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.core.model import Balance, ErrorCode
from gateway.errors import Phase, UpstreamError
from gateway.upstream import EjectionLimits, SideUpstream, UpstreamLimits
from gateway.upstream.balance import Rendezvous
from tests.integration.upstream.harness import fetch, get, let_pass, side_of, tcp, within
from tests.support.raw_upstream import PATIENCE_S, Peer, RawUpstream, answer, replies

skipping = pytest.mark.asyncio(loop_factories=["skipping"])
LIMITS = UpstreamLimits(waiting_s=PATIENCE_S, ejection=EjectionLimits(after_failures=3, base_s=100.0, max_s=1000.0))
KEYS = [f"agent-{number}/task" for number in range(40)]


async def failures(side: SideUpstream, keys: list[str | None]) -> list[ErrorCode]:
    codes: list[ErrorCode] = []
    for key in keys:
        try:
            await fetch(side, key=key)
        except UpstreamError as error:
            codes.append(error.code)
    return codes


async def test_a_key_is_always_served_by_its_own_instance() -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RawUpstream(replies(answer(b"%d" % n)))) for n in range(3)]
        instances = [tcp(server.port) for server in servers]
        side = await stack.enter_async_context(side_of(*instances, limits=LIMITS))
        chosen = {key: await fetch(side, key=key) for key in KEYS}
        assert {key: await fetch(side, key=key) for key in KEYS} == chosen
        assert set(chosen.values()) == {b"0", b"1", b"2"}
        rendezvous = Rendezvous([instance.name for instance in instances])
        assert chosen == {key: b"%d" % rendezvous.choose(key) for key in KEYS}
        response = await side.exchange(get(), KEYS[0])
        assert response.instance == instances[int(chosen[KEYS[0]])].name


async def test_the_less_loaded_of_two_serves() -> None:
    go_on = asyncio.Event()

    async def busy(peer: Peer) -> None:
        await peer.receive_request()
        await go_on.wait()
        await peer.send(answer(b"slow"))

    async with (
        RawUpstream(busy) as slow,
        RawUpstream(replies(answer(b"fast"))) as fast,
        side_of(tcp(slow.port), tcp(fast.port), limits=LIMITS, balance=Balance.P2C) as side,
    ):
        stuck = []
        while not slow.peers:
            stuck.append(asyncio.ensure_future(fetch(side)))
            await asyncio.wait(stuck[-1:], timeout=0.01)
        # With one exchange stuck there, the other one is always the better of the two.
        assert {await fetch(side) for _ in range(30)} == {b"fast"}
        go_on.set()
        await asyncio.gather(*stuck)


@pytest.mark.parametrize("balance", list(Balance))
async def test_an_exchange_without_a_key_is_served_by_any(balance: Balance) -> None:
    async with (
        RawUpstream(replies(answer(b"0"))) as zero,
        RawUpstream(replies(answer(b"1"))) as one,
        side_of(tcp(zero.port), tcp(one.port), limits=LIMITS, balance=balance) as side,
    ):
        assert {await fetch(side) for _ in range(60)} == {b"0", b"1"}


@skipping
async def test_a_refusing_instance_is_left_alone_for_a_growing_time_and_comes_back() -> None:
    async with (
        RawUpstream(replies(answer(b"well"))) as well,
        RawUpstream(replies(answer(b"ill"))) as ill,
        side_of(tcp(well.port), tcp(ill.port), limits=LIMITS, balance=Balance.P2C) as side,
    ):
        await ill.aclose()
        assert {await fetch(side) for _ in range(60)} == {b"well"}
        assert (side.stats().ejected, side.stats().ejections) == (1, 1)
        # On trial after its time: one failure suffices.
        await let_pass(100.0)
        assert side.stats().ejected == 0
        assert {await fetch(side) for _ in range(60)} == {b"well"}
        assert side.stats().ejections == 2
        await let_pass(100.0)
        assert side.stats().ejected == 1
        await let_pass(100.0)
        async with RawUpstream(replies(answer(b"again")), address=("127.0.0.1", ill.port)):
            assert {await fetch(side) for _ in range(60)} == {b"well", b"again"}
            assert side.stats().ejected == 0


@pytest.mark.parametrize("may_retry", [True, False])
@pytest.mark.parametrize("key", [None, "agent/task"])
async def test_who_cannot_connect_asks_another_instance_writes_too(may_retry: bool, key: str | None) -> None:
    """Nothing was sent, so nothing can happen twice."""
    async with (
        RawUpstream(replies(answer(b"well"))) as well,
        RawUpstream(replies(answer(b"ill"))) as ill,
        side_of(tcp(ill.port), tcp(well.port), limits=LIMITS, balance=Balance.P2C) as side,
    ):
        await ill.aclose()
        for _ in range(20):
            response = await side.exchange(get(may_retry=may_retry), key)
            assert response.instance == tcp(well.port).name
            assert await response.read() == b"well"
            assert await response.read() == b""


async def test_a_key_with_an_instance_of_its_own_asks_no_other() -> None:
    async with (
        RawUpstream(replies(answer(b"well"))) as well,
        RawUpstream(replies(answer(b"ill"))) as ill,
        side_of(tcp(well.port), tcp(ill.port), limits=LIMITS) as side,
    ):
        theirs = [key for key in KEYS if await fetch(side, key=key) == b"ill"]
        await ill.aclose()
        # A kept connection may die first.
        codes = await failures(side, [theirs[0]] * 3)
        assert codes[-2:] == [ErrorCode.UPSTREAM_REFUSED] * 2


@skipping
async def test_the_keys_of_an_instance_that_is_out_are_refused_and_no_others() -> None:
    async with (
        RawUpstream(replies(answer(b"well"))) as well,
        RawUpstream(replies(answer(b"ill"))) as ill,
        side_of(tcp(well.port), tcp(ill.port), limits=LIMITS) as side,
    ):
        owner = {key: await fetch(side, key=key) for key in KEYS}
        theirs: list[str | None] = [key for key in KEYS if owner[key] == b"ill"]
        others: list[str | None] = [key for key in KEYS if owner[key] == b"well"]
        await ill.aclose()
        codes = await failures(side, theirs)
        refused = codes.count(ErrorCode.UPSTREAM_REFUSED)
        assert codes == [ErrorCode.UPSTREAM_REFUSED] * refused + [ErrorCode.NO_UPSTREAM] * (len(theirs) - refused)
        assert refused in (3, 4)  # a kept connection may die first, which says nothing about the instance
        assert await failures(side, others) == []
        with pytest.raises(UpstreamError) as caught:
            await fetch(side, key=theirs[0])
        assert caught.value.phase is Phase.SELECT
        assert caught.value.upstream == tcp(ill.port).name
        assert not caught.value.sent
        await let_pass(100.0)
        async with RawUpstream(replies(answer(b"again")), address=("127.0.0.1", ill.port)):
            assert {await fetch(side, key=key) for key in theirs} == {b"again"}


@pytest.mark.parametrize("count", [1, 3])
async def test_when_all_are_down_the_last_one_is_still_tried(count: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RawUpstream(replies(answer(b"back")))) for _ in range(count)]
        instances = [tcp(server.port) for server in servers]
        side = await stack.enter_async_context(side_of(*instances, limits=LIMITS, balance=Balance.P2C))
        for server in servers:
            await server.aclose()
        assert set(await failures(side, [None] * 60)) == {ErrorCode.UPSTREAM_REFUSED}
        assert side.stats().ejected == count - 1
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        last = next(instance.port for instance in instances if instance.name == caught.value.upstream)
        async with RawUpstream(replies(answer(b"back")), address=("127.0.0.1", last)):
            assert await fetch(side) == b"back"


async def test_answers_that_do_not_come_count_as_failures_and_bad_ones_do_not() -> None:
    async def silent(peer: Peer) -> None:
        await peer.wait_closed()

    async with (
        RawUpstream(replies(answer(b"", status=b"500 Internal Server Error"))) as failing,
        RawUpstream(silent) as hanging,
        side_of(tcp(failing.port), tcp(hanging.port), limits=LIMITS) as side,
    ):
        rendezvous = Rendezvous([tcp(failing.port).name, tcp(hanging.port).name])
        to_failing = next(key for key in KEYS if rendezvous.choose(key) == 0)
        to_hanging = next(key for key in KEYS if rendezvous.choose(key) == 1)
        for _ in range(10):
            assert (await side.exchange(get(), to_failing)).status == 500
        codes = []
        for _ in range(5):
            with pytest.raises(UpstreamError) as caught:
                await side.exchange(get(deadlines=within(first_byte_s=0.02)), to_hanging)
            codes.append(caught.value.code)
        assert codes == [ErrorCode.UPSTREAM_TIMEOUT] * 3 + [ErrorCode.NO_UPSTREAM] * 2
        assert side.stats().ejections == 1
