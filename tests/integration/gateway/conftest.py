"""A worker in front of two stub sides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.redis_process import running_redis
from tests.support.sides import StubSide, live, migration, stub_sides
from tests.support.worker import Bench, WorkerProcess, bench


@pytest.fixture
async def sides() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
async def place(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Bench]:
    """Where workers run: every operation live at 50 %, a Redis of its own."""
    with running_redis() as process:
        async with bench(tmp_path, process.url, live(migration(sides), 50)) as place:
            place.prepare({"internal_token": "internal", "force_secret": "force"})
            await place.boot()
            yield place


@pytest.fixture
async def worker(place: Bench) -> WorkerProcess:
    return await place.start()
