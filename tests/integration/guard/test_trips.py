"""Real workers take new out when it fails, hangs or is gone, and leave it alone when it is well."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.core.model import LatchKind, Scope, ScopeKind, Side
from gateway.state.connect import connect
from gateway.state.policy_store import PolicyStore
from tests.support.raw_upstream import Peer, RawRequest, answer
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess

Sides = dict[Side, StubSide]
BROKEN = b"HTTP/1.1 500 broken\r\ncontent-length: 0\r\n\r\n"
GET = get("/items/1", "x-key: k")


class Load:
    """Requests, one after the other, until told to stop; those that are lost are asked again on a new connection."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self.statuses: list[int] = []
        self.sides: list[bytes] = []

    async def run(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                async with client(self._worker.port) as c:
                    while True:
                        found = await c.ask(GET)
                        self.statuses.append(found.status)
                        self.sides.append(found.headers.get(b"crossfade-side", b""))
                        await asyncio.sleep(0.005)


def replies(side: StubSide, *first: bytes) -> list[bytes]:
    """The side answers in turn with these, which may be changed."""
    responses = list(first)

    async def serve(peer: Peer) -> None:
        while True:
            request: RawRequest = await peer.receive_request()
            side.requests.append(request)
            await peer.send(responses[len(side.requests) % len(responses)])

    side.script = serve
    return responses


async def loads(worker: WorkerProcess, count: int = 1) -> tuple[list[Load], list[asyncio.Task[None]]]:
    made = [Load(worker) for _ in range(count)]
    return made, [asyncio.create_task(load.run()) for load in made]


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def latches(redis: RedisProcess) -> dict[str, tuple[LatchKind, str]]:
    async with connect(redis.url) as store:
        policy = await PolicyStore(store, "shop").read()
    assert policy is not None
    return {str(scope): (latch.kind, latch.reason) for scope, latch in policy.latches.items()}


async def test_errors_trip_the_operation_and_all_workers_obey(
    place: Bench, worker: WorkerProcess, sides: Sides, redis: RedisProcess
) -> None:
    other = await place.start("gateway-1")
    responses = replies(sides[Side.NEW], answer(b"new"))
    made, tasks = await loads(worker)
    try:
        await until(lambda: len(made[0].statuses) > 100, "all is well for a while")
        assert worker.counters["killed"] == []
        responses[:] = [BROKEN]
        await until(lambda: made[0].sides[-1:] == [b"old"], "old answers")
        await until(lambda: bool(worker.counters["killed"]), "it is told")
        await until(lambda: other.counters["killed"] == worker.counters["killed"], "the other worker obeys")
    finally:
        await stop(tasks)
    found = await latches(redis)
    assert list(found) == ["operation:item.get"]
    kind, reason = found["operation:item.get"]
    assert kind is LatchKind.TRIP
    assert "requests failed" in reason
    async with connect(redis.url) as client_of_redis:
        store = PolicyStore(client_of_redis, "shop")
        (record,), policy, (acts, _) = await store.trips(), await store.read(), await store.audit(10)
    assert policy is not None
    assert policy.latches[Scope(ScopeKind.OPERATION, "item.get")].evidence == record["id"] == acts[0]["evidence"]
    assert (record["signal"], record["reason"], record["disarmed"]) == ("errors", reason, False)
    assert record["excursion"]["bad"] >= 10
    assert record["error_kinds"][0]["kind"] == "status 500"
    assert record["failed"]
    assert record["policy_before"]["operations"]["item.get"]["effective_percent"] == 100
    assert record["workers"]["heard"] == 2


async def test_a_few_errors_do_not(worker: WorkerProcess, sides: Sides) -> None:
    replies(sides[Side.NEW], *[answer(b"new")] * 99, BROKEN)
    made, tasks = await loads(worker, 2)
    try:
        await until(lambda: sum(len(load.statuses) for load in made) > 800, "they have asked")
    finally:
        await stop(tasks)
    assert worker.counters["killed"] == []
    assert any(500 in load.statuses for load in made)


async def test_client_errors_blame_nobody(worker: WorkerProcess, sides: Sides) -> None:
    replies(sides[Side.NEW], answer(b"no", status=b"404 x"))
    made, tasks = await loads(worker, 2)
    try:
        await until(lambda: sum(len(load.statuses) for load in made) > 300, "they have asked")
    finally:
        await stop(tasks)
    assert worker.counters["killed"] == []


@pytest.mark.parametrize("with_redis", [True, False])
async def test_a_side_that_is_gone_is_out_at_once_with_redis_or_without(
    worker: WorkerProcess, sides: Sides, redis: RedisProcess, with_redis: bool
) -> None:
    server = sides[Side.NEW].server
    assert server is not None
    if not with_redis:
        redis.kill()
    await server.aclose()
    async with client(worker.port) as c:
        for _ in range(60):
            found = await c.ask(GET)
            if found.headers.get(b"crossfade-side") == b"old":
                break
    assert found.status == 200
    assert found.body == b"old"


async def test_a_side_that_hangs_is_silent(worker: WorkerProcess, sides: Sides) -> None:
    async def hang(peer: Peer) -> None:
        await peer.receive_request()
        await asyncio.Event().wait()

    sides[Side.NEW].script = hang
    made, tasks = await loads(worker, 12)
    try:
        await until(lambda: bool(worker.counters.get("killed")), "it is taken out", 30)
        killed_at = worker.counters["at"]
        # What hangs still says nothing about all the rest.
        await until(lambda: worker.counters["at"] > killed_at + 7, "more than silence takes", 30)
        assert worker.counters["killed"] == ["operation:item.get"]
    finally:
        await stop(tasks)
    del made
