"""Host names are looked up at the start and in the background, never for a request."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.model import ErrorCode, Instance
from gateway.errors import Phase, UpstreamError
from gateway.upstream import UpstreamLimits
from tests.integration.upstream.harness import fetch, get, let_pass, side_of, skipping_loop, within
from tests.support.raw_upstream import PATIENCE_S, RawUpstream, answer, eventually, replies

pytestmark = pytest.mark.asyncio(loop_factories=["skipping"])

LIMITS = UpstreamLimits(resolve_s=100.0, idle_connections=0, waiting_s=PATIENCE_S)
"""No kept connections: every exchange dials."""


def named(port: int) -> Instance:
    return Instance(f"http://side.test:{port}", "side.test", port)


async def test_a_name_is_looked_up_at_the_start_and_not_for_requests() -> None:
    loop = skipping_loop()
    loop.names["side.test"] = ["127.0.0.1"]
    async with RawUpstream(replies(answer(b"one"))) as server, side_of(named(server.port), limits=LIMITS) as side:
        assert loop.lookups == ["side.test"]
        for _ in range(5):
            assert await fetch(side) == b"one"
        assert len(server.peers) == 5
        assert loop.lookups == ["side.test"]


async def test_a_name_is_looked_up_again_in_the_background() -> None:
    loop = skipping_loop()
    loop.names["side.test"] = ["127.0.0.1"]
    async with (
        RawUpstream(replies(answer(b"one"))) as one,
        RawUpstream(replies(answer(b"two")), address=("127.0.0.2", one.port)),
        side_of(named(one.port), limits=LIMITS) as side,
    ):
        assert await fetch(side) == b"one"
        loop.names["side.test"] = ["127.0.0.2"]
        assert await fetch(side) == b"one"
        await let_pass(100.0)
        await eventually(lambda: len(loop.lookups) == 2)
        assert await fetch(side) == b"two"


async def test_a_failed_look_up_keeps_the_last_good_addresses() -> None:
    loop = skipping_loop()
    loop.names["side.test"] = ["127.0.0.1"]
    async with RawUpstream(replies(answer(b"one"))) as server, side_of(named(server.port), limits=LIMITS) as side:
        del loop.names["side.test"]
        for count in (2, 3):
            await let_pass(100.0)
            await eventually(lambda count=count: len(loop.lookups) == count)  # type: ignore[misc]  # mypy on lambda defaults
            assert await fetch(side) == b"one"


async def test_a_name_without_an_address_is_a_refusal_until_it_has_one() -> None:
    loop = skipping_loop()
    async with RawUpstream(replies(answer(b"one"))) as server, side_of(named(server.port), limits=LIMITS) as side:
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_REFUSED, Phase.CONNECT)
        assert not caught.value.sent
        loop.names["side.test"] = ["127.0.0.1"]
        assert await fetch(side) == b"one"


async def test_an_address_that_refuses_is_passed_over_and_tried_last() -> None:
    loop = skipping_loop()
    loop.names["side.test"] = ["127.0.0.2", "127.0.0.1"]
    async with RawUpstream(replies(answer(b"one"))) as server, side_of(named(server.port), limits=LIMITS) as side:
        assert await fetch(side) == b"one"
        async with RawUpstream(replies(answer(b"two")), address=("127.0.0.2", server.port)):
            assert await fetch(side) == b"one"


async def test_a_look_up_that_hangs_is_bounded_and_not_stopped_by_who_leaves() -> None:
    loop = skipping_loop()
    answer_now = asyncio.Event()
    finished: list[str] = []

    async def slow(host: str, port: int, **_: object) -> list[object]:
        await answer_now.wait()
        finished.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    loop.getaddrinfo = slow  # type: ignore[method-assign]  # a resolver that hangs
    async with RawUpstream(replies(answer(b"one"))) as server:
        instance = named(server.port)
        starting = asyncio.ensure_future(side_of(instance, limits=LIMITS).__aenter__())
        await let_pass(1.0)
        assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        answer_now.set()
        await eventually(lambda: finished == ["side.test"])


async def test_the_connect_deadline_bounds_the_first_look_up() -> None:
    loop = skipping_loop()
    loop.names["side.test"] = []
    hang = asyncio.Event()

    async def never(host: str, port: int, **_: object) -> list[object]:
        await hang.wait()
        return []

    async with RawUpstream(replies(answer(b"one"))) as server, side_of(named(server.port), limits=LIMITS) as side:
        loop.getaddrinfo = never  # type: ignore[method-assign]  # a resolver that hangs
        with pytest.raises(UpstreamError) as caught:
            await fetch(side, get(deadlines=within(connect_s=0.1)))
        assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_TIMEOUT, Phase.CONNECT)
