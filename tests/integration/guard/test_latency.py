"""Slowness, the whole way: a baseline on old, the warm-up, the limit, the count, the second look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, Script, answer
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get, live, migration
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess, bench

WARM_UP_LIMIT_S = 90
Sides = dict[Side, StubSide]


class Paced:
    """Both sides, with answers after a time that may be changed."""

    def __init__(self, sides: Sides) -> None:
        self.seconds = dict.fromkeys(Side, 0.02)
        for side, stub in sides.items():
            stub.script = self._script(side)

    def _script(self, side: Side) -> Script:
        async def serve(peer: Peer) -> None:
            while True:
                await peer.receive_request()
                await asyncio.sleep(self.seconds[side])
                await peer.send(answer(side.encode()))

        return serve


@pytest.fixture
async def place(tmp_path: Path, sides: Sides, redis: RedisProcess) -> AsyncIterator[Bench]:
    async with bench(tmp_path, redis.url, live(migration(sides), 50)) as place:
        place.prepare({"internal_token": "internal"})
        await place.boot()
        yield place


def guard(worker: WorkerProcess) -> str:
    return str(worker.counters.get("guards", {}).get("item.get", {}).get("state"))


async def test_slowness_of_both_holds_and_of_new_alone_trips(worker: WorkerProcess, sides: Sides) -> None:
    paced = Paced(sides)

    async def ask(number: int) -> None:
        async with client(worker.port) as c:
            while True:
                await c.ask(get("/items/1", f"x-key: k{number}"))

    asking = [asyncio.create_task(ask(number)) for number in range(8)]
    try:
        await until(lambda: guard(worker) == "not_armed", "it says that it is not armed")
        await until(lambda: guard(worker) == "armed", "it is armed", WARM_UP_LIMIT_S)
        counted = worker.counters["operations"]["item.get"]["new"]["outcomes"]["ok"]
        paced.seconds = dict.fromkeys(Side, 0.1)
        await until(
            lambda: worker.counters["operations"]["item.get"]["new"]["outcomes"]["ok"] > counted + 200, "both are slow"
        )
        assert worker.counters["killed"] == []
        paced.seconds = {Side.OLD: 0.02, Side.NEW: 0.6}
        await until(lambda: worker.counters["killed"] == ["operation:item.get"], "new is out", 60)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
