"""Workers in front of two stub sides, every operation live on new."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.sides import StubSide, live, migration, stub_sides
from tests.support.worker import Bench, WorkerProcess, bench


@pytest.fixture
async def sides() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
def redis() -> RedisProcess:  # type: ignore[misc]  # a generator, as pytest has them
    with running_redis() as process:
        yield process


@pytest.fixture
async def place(tmp_path: Path, sides: dict[Side, StubSide], redis: RedisProcess) -> AsyncIterator[Bench]:
    async with bench(tmp_path, redis.url, live(migration(sides), 100)) as place:
        place.prepare({"internal_token": "internal", "force_secret": "force"})
        await place.boot()
        yield place


@pytest.fixture
async def worker(place: Bench) -> WorkerProcess:
    return await place.start()
