"""`python -m backends.approach2 --port P | --fd N --data-dir DIR`."""

from __future__ import annotations

import os
import sys

from backends.approach2.database import Database
from backends.approach2.pool import PoolSize, SandboxPoolManager
from backends.approach2.service import GitSandboxService
from backends.approach2.table import SandboxTable
from backends.common.locks import LocalLocks
from backends.common.serving import Surroundings, serve


def build(around: Surroundings) -> GitSandboxService:
    """Puts the service together."""
    url = os.environ.pop("CROSSFADE_DATABASE_URL", "") or f"sqlite+aiosqlite:///{around.data_dir / 'approach2.db'}"
    database = Database(url)
    pool = SandboxPoolManager(around.provider, SandboxTable(database), PoolSize.from_env(os.environ))
    return GitSandboxService(around.provider, database, pool, LocalLocks(), around.rules)


if __name__ == "__main__":
    sys.exit(serve("approach2", build))
