"""Each test gets a Redis of its own: they kill, freeze and empty it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.state.scene import Scene, scene_on
from tests.support.redis_process import running_redis


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    with running_redis() as redis:
        async with scene_on(redis, tmp_path) as scene:
            yield scene
