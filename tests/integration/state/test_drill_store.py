"""Drills in Redis: everybody goes by one clock, whatever their own says."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.core.drill import DrillOrder, Fault
from gateway.core.model import Ppm
from gateway.drill.following import DrillFollower
from gateway.state.connect import RedisClient, connect
from gateway.state.drills import DrillStore
from tests.support.redis_process import running_redis
from tests.support.waiting import until_async


@pytest.fixture
async def redis() -> AsyncIterator[RedisClient]:
    with running_redis() as process:
        connection = connect(process.url)
        yield connection
        await connection.aclose()


@pytest.mark.parametrize("skew_s", [-5.0, 0.0, 5.0, 1e6])
async def test_a_fault_begins_and_ends_on_a_worker_whose_clock_is_off(redis: RedisClient, skew_s: float) -> None:
    control = DrillStore(redis, "shop")
    theirs = DrillStore(redis, "shop", lambda: time.monotonic() + skew_s)
    worker = DrillFollower("w", theirs, lambda _: (None, None), lambda: None, lambda _: None, theirs.clock.now)
    await control.tell_time()
    begins_at = control.clock.now() + 0.3
    order = DrillOrder("d1", Fault.ERRORS, "a", Ppm(0), begins_at, begins_at + 0.3)
    assert await control.begin(order)
    assert not await control.begin(order)

    async def has_begun() -> bool:
        await worker.look()
        return worker.active == order

    await until_async(has_begun, "it begins")
    await control.tell_time()
    (note,) = await control.notes("d1")
    assert note.begun_at is not None
    # Neither 5 s too early nor at a time that is still to come.
    slack_s = 0.05
    assert begins_at - slack_s <= note.begun_at <= control.clock.now() + slack_s

    async def has_ended() -> bool:
        await worker.look()
        return worker.active is None

    await until_async(has_ended, "it ends")
    assert theirs.clock.now() >= order.ends_at - slack_s


async def test_an_order_of_another_drill_is_not_taken_back(redis: RedisClient) -> None:
    store = DrillStore(redis, "shop")
    await store.tell_time()
    now = store.clock.now()
    assert await store.begin(DrillOrder("d1", Fault.ERRORS, "a", Ppm(0), now, now + 60))
    await store.end("d2")
    assert (await store.order())[1] is not None
    await store.end("d1")
    assert await store.order() == (True, None)
