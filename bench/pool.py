"""What the warm pool costs and spares: a checkout beside the provider's own time, and the first clone of a task.

.venv/bin/python -m bench.pool
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

from backends.approach2.database import Database
from backends.approach2.pool import SandboxPoolManager
from backends.approach2.pool_settings import PoolSettings
from backends.approach2.table import SandboxTable
from backends.common.local_provider import LocalProvider
from backends.common.locks import LocalLocks
from backends.common.sandbox import Sandbox, Terms
from backends.common.workspace import WorkspaceId
from tests.support.fake_e2b import running_fake_e2b
from tests.support.postgres_process import running_postgres
from tests.support.services import SERVICES, Start, Workspace, agent_on, bare_repository, started_service

_CHECKOUTS: Final = 40
_CLONES: Final = 5
_CREATE_S: Final = 1.0


class Timed:
    """A provider that counts the time it takes."""

    def __init__(self, provider: LocalProvider) -> None:
        self._provider = provider
        self.took_s = 0.0

    @property
    def terms(self) -> Terms:
        """See `SandboxProvider.terms`."""
        return self._provider.terms

    def belong_to(self, deployment: str) -> None:
        """See `SandboxProvider.belong_to`."""

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> Sandbox:
        """See `SandboxProvider.create`; not counted: it is made beforehand."""
        return await self._provider.create(name, labels)

    async def find(self, name: str) -> Sandbox | None:
        """See `SandboxProvider.find`."""
        begun = time.perf_counter()
        found = await self._provider.find(name)
        if found is not None:
            # The pool asks it once more; this is what that takes.
            await found.is_healthy()
        self.took_s += time.perf_counter() - begun
        return found

    async def destroy(self, name: str) -> None:
        """See `SandboxProvider.destroy`."""
        await self._provider.destroy(name)

    async def names(self) -> list[str]:
        """See `SandboxProvider.names`."""
        return await self._provider.names()


async def checkouts(url: str, home: Path) -> tuple[float, float]:
    """Median milliseconds of a checkout without the provider, and of the provider's part."""
    database = Database(url)
    await database.start()
    provider = Timed(LocalProvider(home))
    settings = PoolSettings(warm=_CHECKOUTS, total=10 * _CHECKOUTS)
    pool = SandboxPoolManager(provider, SandboxTable(database), LocalLocks(), settings)
    await pool.start()
    await pool.wait_warm()
    own, theirs = [], []
    for number in range(_CHECKOUTS // 2):
        before, begun = provider.took_s, time.perf_counter()
        await pool.checkout(WorkspaceId("bench", f"task-{number}"))
        took, provided = time.perf_counter() - begun, provider.took_s - before
        own.append((took - provided) * 1000)
        theirs.append(provided * 1000)
        await pool.wait_warm()
    await pool.aclose()
    await database.aclose()
    return median(own), median(theirs)


async def first_clones(home: Path) -> dict[str, float]:
    """Median seconds of the first clone of a task on each service, where a sandbox takes a second to be made."""
    bare = bare_repository(home)
    took = {}
    with running_fake_e2b(home / "e2b") as cloud:
        for name in SERVICES:
            async with AsyncExitStack() as stack:
                start = Start(env=cloud.env, local_remotes=[home])
                service = await stack.enter_async_context(started_service(name, home / name, cloud.root, start))
                cloud.trouble(create_s=_CREATE_S)
                found = []
                for number in range(_CLONES):
                    agent = await stack.enter_async_context(
                        agent_on("rest", service.url, Workspace("bench", f"{name}-{number}"))
                    )
                    begun = time.perf_counter()
                    answer = await agent.call("git.clone", url=str(bare))
                    found.append(time.perf_counter() - begun)
                    assert not answer.is_error, answer
                    # The pool is warm again before the next task comes.
                    await asyncio.sleep(_CREATE_S + 1)
                took[name] = median(found)
                cloud.trouble(create_s=0)
    return took


async def main() -> None:
    """Measures both."""
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as home, running_postgres() as server:
        place = Path(home)
        urls = {"SQLite": f"sqlite+aiosqlite:///{home}/bench.db", "PostgreSQL": server.new_database()}
        for name, url in urls.items():
            own, theirs = await checkouts(url, place / f"sandboxes-{name}")
            print(f"checkout from a warm pool, {name:10}  {own:5.1f} ms besides the provider's {theirs:5.1f} ms")
        took = await first_clones(place)
        spared = took["approach1"] - took["approach2"]
        print(
            f"first clone, {_CREATE_S:.1f} s to make a sandbox   approach 1 {took['approach1']:.2f} s   "
            f"approach 2 {took['approach2']:.2f} s   spared {spared:.2f} s"
        )


if __name__ == "__main__":
    asyncio.run(main())
