"""`python -m backends.approach2 --port P | --fd N --data-dir DIR`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog

from backends.approach2.database import Database
from backends.approach2.locks import RedisLocks
from backends.approach2.pool_settings import PoolSettings
from backends.approach2.service import GitSandboxService
from backends.common.locks import LocalLocks, WorkspaceLocks
from backends.common.serving import Surroundings, serve


def build(around: Surroundings) -> GitSandboxService:
    """Puts the service together."""
    url = os.environ.pop("CROSSFADE_DATABASE_URL", "") or f"sqlite+aiosqlite:///{around.data_dir / 'approach2.db'}"
    file = os.environ.pop("CROSSFADE_DATABASE_PASSWORD_FILE", "")
    database = Database(url, Path(file).read_text().strip() if file else None)
    return GitSandboxService(around.provider, database, _locks(), PoolSettings.from_env(os.environ), around.rules)


def _locks() -> WorkspaceLocks:
    """Of Redis where one is named; in memory, for one instance alone, where none is."""
    url = os.environ.pop("CROSSFADE_REDIS_URL", "")
    file = os.environ.pop("CROSSFADE_REDIS_PASSWORD_FILE", "")
    if not url:
        structlog.get_logger("crossfade.approach2").warning("locks_in_memory", why="CROSSFADE_REDIS_URL is not set")
        return LocalLocks()
    return RedisLocks(url, Path(file).read_text().strip() if file else None)


if __name__ == "__main__":
    sys.exit(serve("approach2", build))
