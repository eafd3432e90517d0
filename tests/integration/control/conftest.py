"""Each test gets a control and a Redis of its own: they kill and empty it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.control import Desk, desk_on
from tests.support.redis_process import running_redis


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    with running_redis() as redis:
        async with desk_on(redis, tmp_path) as desk:
            yield desk
