"""An operation that is rarely asked: health checks tell that new is gone, once one request has been lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get, live, migration
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess, bench


@pytest.fixture
async def place(tmp_path: Path, sides: dict[Side, StubSide], redis: RedisProcess) -> AsyncIterator[Bench]:
    content = live(migration(sides), 100)
    content["sides"]["new"]["health"] = {"path": "/healthz", "interval_s": 1}
    async with bench(tmp_path, redis.url, content) as place:
        place.prepare({"internal_token": "internal"})
        await place.boot()
        yield place


async def test_one_lost_request_and_failing_checks_are_enough(
    worker: WorkerProcess, sides: dict[Side, StubSide]
) -> None:
    server = sides[Side.NEW].server
    assert server is not None
    await server.aclose()

    def is_unwell() -> bool:
        return bool(worker.counters.get("sides", {}).get("new", {}).get("out", {}).get("unwell"))

    await until(is_unwell, "health checks fail", 30)
    assert worker.counters["killed"] == []
    with suppress(OSError):
        async with client(worker.port) as c:
            assert (await c.ask(get("/items/1", "x-key: k"))).status >= 500
    await until(lambda: worker.counters["killed"] == ["all"], "it is taken out", 40)
