"""Locks in a real Redis: who holds, who waits, what happens when Redis or a holder is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from backends.approach2.locks import LockTimes, RedisLocks
from backends.common.errors import Code, ServiceError
from backends.common.workspace import WorkspaceId
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.waiting import until_async

ONE = WorkspaceId("agent", "one")
TWO = WorkspaceId("agent", "two")
TIMES = LockTimes(ttl_s=1.0, renew_s=0.2, wait_s=0.3)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with running_redis() as redis:
        yield redis


@pytest.fixture
def redis(server: RedisProcess) -> Iterator[RedisProcess]:
    yield server
    server.resume()


@pytest.fixture
async def instances(redis: RedisProcess) -> AsyncIterator[list[RedisLocks]]:
    """Of the locks, as two instances of the service have them."""
    made = [RedisLocks(redis.url, times=TIMES) for _ in range(2)]
    for locks in made:
        locks.belong_to("here")
    await made[0]._redis.flushall()
    yield made
    for locks in made:
        await locks.aclose()


async def code_of(locks: RedisLocks, workspace: WorkspaceId) -> Code:
    with pytest.raises(ServiceError) as caught:
        async with locks.hold(workspace):
            pass
    return caught.value.code


async def test_nothing_is_held_before_it_is_known_for_whom(redis: RedisProcess) -> None:
    locks = RedisLocks(redis.url, times=TIMES)
    assert await code_of(locks, ONE) is Code.LOCKS_UNAVAILABLE
    await locks.aclose()


async def test_a_workspace_of_that_name_in_another_deployment_is_another_one(instances: list[RedisLocks]) -> None:
    here, there = instances
    there.belong_to("there")
    async with here.hold(ONE), there.hold(ONE):
        assert await here.is_held(ONE)
    assert not await here.is_held(ONE)


async def test_one_holds_and_the_others_wait_or_are_told(instances: list[RedisLocks]) -> None:
    here, there = instances
    async with here.hold(ONE):
        assert await code_of(there, ONE) is Code.WORKSPACE_BUSY
        assert await code_of(here, ONE) is Code.WORKSPACE_BUSY
        assert await there.is_held(ONE)
        async with there.hold(TWO):
            pass
    assert not await there.is_held(ONE)
    async with there.hold(ONE):
        pass


async def test_every_hold_has_a_greater_fence_even_when_redis_has_lost_its_data(instances: list[RedisLocks]) -> None:
    fences = []
    for number in range(20):
        async with instances[number % 2].hold(ONE) as fence:
            assert fence is not None
            fences.append(fence)
        if number == 10:
            await instances[0]._redis.flushall()
    assert fences == sorted(set(fences))


async def test_a_hold_lasts_longer_than_its_lock_would_unrenewed(instances: list[RedisLocks]) -> None:
    here, there = instances
    loop = asyncio.get_running_loop()
    async with here.hold(ONE):
        until = loop.time() + 2 * TIMES.ttl_s
        while loop.time() < until:
            assert await code_of(there, ONE) is Code.WORKSPACE_BUSY
    async with there.hold(ONE):
        pass


async def test_the_lock_of_a_holder_that_is_gone_expires(instances: list[RedisLocks]) -> None:
    here, there = instances
    holding = AsyncExitStack()
    await holding.enter_async_context(here.hold(ONE))
    # As kill -9 would leave it: nobody renews, nobody lets go.
    await here._redis.set(f"cf:lock:here:{TWO.digest}", "of a dead one", px=300)

    async def is_free() -> bool:
        return not await there.is_held(TWO)

    await until_async(is_free, "it expires")
    async with there.hold(TWO):
        pass
    await holding.aclose()


async def test_a_lock_that_was_lost_is_not_taken_from_who_has_it_now(instances: list[RedisLocks]) -> None:
    here, there = instances
    async with here.hold(ONE) as first:
        await here._redis.delete(f"cf:lock:here:{ONE.digest}")
        async with there.hold(ONE) as second:
            assert first is not None
            assert second is not None
            assert second > first

            async def has_noticed() -> bool:
                return bool(await there.is_held(ONE))

            await until_async(has_noticed, "it is held")
            held = await here._redis.get(f"cf:lock:here:{ONE.digest}")
        assert held is not None
        assert not await there.is_held(ONE)


async def test_a_holder_whose_lock_was_lost_leaves_the_next_one_alone(instances: list[RedisLocks]) -> None:
    here, there = instances
    async with AsyncExitStack() as stack:
        async with here.hold(ONE):
            await here._redis.delete(f"cf:lock:here:{ONE.digest}")
            await stack.enter_async_context(there.hold(ONE))
        assert await there.is_held(ONE)


async def test_without_redis_nobody_holds_and_nobody_waits(instances: list[RedisLocks], redis: RedisProcess) -> None:
    here = instances[0]
    assert await here.why_not_ready() is None
    redis.freeze()
    assert await code_of(here, ONE) is Code.LOCKS_UNAVAILABLE
    assert "locks cannot be had" in (await here.why_not_ready() or "")
    redis.resume()
    # What was asked of it meanwhile it may still do, for nobody.
    await until_async(lambda: can_hold(here, ONE), "it can be held again")
    async with here.hold(ONE):
        redis.freeze()
    # It could not be let go, and expires.
    redis.resume()
    await until_async(lambda: can_hold(here, ONE), "it expires")


async def can_hold(locks: RedisLocks, workspace: WorkspaceId) -> bool:
    try:
        async with locks.hold(workspace):
            return True
    except ServiceError:
        return False


async def test_who_is_cancelled_while_waiting_leaves_no_lock(instances: list[RedisLocks]) -> None:
    here, there = instances

    async def take() -> None:
        async with there.hold(ONE):
            await asyncio.Event().wait()

    for pauses in range(40):
        taking = asyncio.create_task(take())
        for _ in range(pauses):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        assert not await here.is_held(ONE)


async def test_of_many_at_once_each_has_it_alone(instances: list[RedisLocks], redis: RedisProcess) -> None:
    patient = [RedisLocks(redis.url, times=LockTimes(wait_s=30)) for _ in range(2)]
    for locks in patient:
        locks.belong_to("here")
    inside = 0
    most = 0

    async def work(number: int) -> None:
        nonlocal inside, most
        async with patient[number % 2].hold(ONE):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(number) for number in range(40)))
    assert most == 1
    for locks in patient:
        await locks.aclose()
    assert not await instances[0].is_held(ONE)


def test_a_url_that_is_none_is_not_shown() -> None:
    with pytest.raises(ValueError, match="is no URL of a Redis") as caught:
        RedisLocks("nonsense://user:s3cret@host")
    assert "s3cret" not in str(caught.value)
