"""A drill's order makes workers see a fault on its own keys, and on nobody else's; it ends by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.core.drill import DrillOrder, Fault, is_rehearsed, key_part
from gateway.core.model import Latch, LatchKind, Ppm, Side
from gateway.state.connect import RedisClient, connect
from gateway.state.drills import DrillStore
from gateway.state.policy_store import PolicyStore
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until, until_async
from tests.support.worker import Bench, WorkerProcess, bench

Sides = dict[Side, StubSide]
MINE = key_part("d1", 0)


@pytest.fixture(params=["on", "off"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, sides: Sides, redis: RedisProcess
) -> AsyncIterator[Bench]:
    content = live(migration(sides), 100)
    content["operations"]["item.get"]["deadline_s"] = 2
    async with bench(tmp_path, redis.url, content, express=request.param) as place:
        place.prepare()
        await place.boot()
        yield place


@pytest.fixture
async def own(redis: RedisProcess) -> AsyncIterator[RedisClient]:
    connection = connect(redis.url)
    yield connection
    await connection.aclose()


@pytest.fixture
def drills(own: RedisClient) -> DrillStore:
    return DrillStore(own, "shop")


async def begin(drills: DrillStore, fault: Fault, *, lasts_s: float = 60.0, share: int = 0) -> DrillOrder:
    """The order stands and every worker obeys it."""
    now = time.time()
    order = DrillOrder("d1", fault, "item.get", Ppm(share), now, now + lasts_s)
    assert await drills.begin(order, now)

    async def has_begun() -> bool:
        return any(note.begun_at is not None for note in await drills.notes("d1"))

    await until_async(has_begun, "it has begun")
    return order


async def ask(worker: WorkerProcess, key: str, line: str = "/items/1") -> tuple[int, Mapping[bytes, bytes]]:
    async with client(worker.port) as c:
        found = await c.ask(get(line, f"x-key: {key}"))
        return found.status, found.headers


@pytest.mark.parametrize(("fault", "status"), [(Fault.ERRORS, 503), (Fault.DOWN, 502), (Fault.HANG, 504)])
async def test_its_own_keys_see_the_fault(
    worker: WorkerProcess, sides: Sides, drills: DrillStore, fault: Fault, status: int
) -> None:
    await begin(drills, fault)
    assert (await ask(worker, MINE))[0] == status
    assert sides[Side.NEW].requests == []
    assert (await ask(worker, "k"))[0] == 200
    assert len(sides[Side.NEW].requests) == 1
    async with client(worker.port) as c:
        # Another operation of the same key.
        assert (await c.ask(post("/items/1", b"{}", f"x-key: {MINE}", method="PUT"))).status == 200


async def test_slow_is_slow_and_arrives(worker: WorkerProcess, sides: Sides, drills: DrillStore) -> None:
    await begin(drills, Fault.SLOW)
    begun = time.monotonic()
    assert (await ask(worker, MINE))[0] == 200
    assert time.monotonic() - begun >= 1.0
    assert len(sides[Side.NEW].requests) == 1


async def test_a_share_of_everybody(worker: WorkerProcess, drills: DrillStore) -> None:
    await begin(drills, Fault.ERRORS, share=1_000_000)
    assert (await ask(worker, "k"))[0] == 503


async def test_it_ends_when_it_is_taken_back(worker: WorkerProcess, drills: DrillStore) -> None:
    await begin(drills, Fault.ERRORS)
    await drills.end("d1")

    async def is_well() -> bool:
        return (await ask(worker, MINE))[0] == 200

    await until_async(is_well, "the fault is gone")


async def test_it_ends_by_the_clock_without_redis(
    worker: WorkerProcess, drills: DrillStore, redis: RedisProcess
) -> None:
    await begin(drills, Fault.ERRORS, lasts_s=2.0)
    redis.kill()

    async def is_well() -> bool:
        return (await ask(worker, MINE))[0] == 200

    assert not await is_well()
    await until_async(is_well, "the fault is gone", 30)


async def test_a_client_that_leaves_a_hanging_request(worker: WorkerProcess, drills: DrillStore) -> None:
    await begin(drills, Fault.HANG)
    async with client(worker.port) as c:
        asking = asyncio.create_task(c.ask(get("/items/1", f"x-key: {MINE}")))
        await until(lambda: worker.counters is not None, "it runs")
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    assert (await ask(worker, "k"))[0] == 200


async def test_a_trip_in_a_drill_is_known_as_one(worker: WorkerProcess, drills: DrillStore, own: RedisClient) -> None:
    await begin(drills, Fault.ERRORS)

    async def load() -> None:
        async with client(worker.port) as c:
            while True:
                await c.ask(get("/items/1", f"x-key: {MINE}"))
                await asyncio.sleep(0.005)

    asking = asyncio.create_task(load())
    try:
        await until(lambda: bool(worker.counters["killed"]), "it trips")
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    latches: list[Latch] = []

    async def is_stored() -> bool:
        policy = await PolicyStore(own, "shop").read()
        assert policy is not None
        latches[:] = policy.latches.values()
        return bool(latches)

    await until_async(is_stored, "the trip is stored")
    (latch,) = latches
    assert latch.kind is LatchKind.TRIP
    assert is_rehearsed(latch, "d1")

    async def is_out() -> bool:
        (note,) = await drills.notes("d1")
        return note.out_at is not None and note.last_at is not None and note.last_at <= note.out_at and note.faults > 9

    await until_async(is_out, "it says when")


async def test_what_is_no_order_is_left_alone(worker: WorkerProcess, own: RedisClient) -> None:
    await own.set("cf:shop:drill", "no order")
    assert (await ask(worker, MINE))[0] == 200
