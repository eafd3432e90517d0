"""The service layer: workspaces found through a table, sandboxes from a warm pool, locks behind a protocol."""

from __future__ import annotations

from backends.approach2.calls import CallTable
from backends.approach2.database import Database
from backends.approach2.pool import SandboxPoolManager
from backends.approach2.pool_settings import PoolSettings
from backends.approach2.table import SandboxTable
from backends.common.locks import WorkspaceLocks
from backends.common.remotes import RemoteRules
from backends.common.sandbox import Sandbox, SandboxProvider
from backends.common.service import GitService
from backends.common.workspace import WorkspaceId
from backends.common.workspaces import Workspaces


class GitSandboxService(GitService):
    """Any number of instances, with a database, a pool and locks that they share."""

    name = "approach2"

    def __init__(
        self,
        provider: SandboxProvider,
        database: Database,
        locks: WorkspaceLocks,
        settings: PoolSettings,
        rules: RemoteRules,
    ) -> None:
        self._provider = provider
        self._database = database
        self._locks = locks
        table = SandboxTable(database)
        self._pool = SandboxPoolManager(provider, table, locks, settings)
        sandboxes = _Pooled(provider, table, self._pool)
        self.workspaces = Workspaces(sandboxes, locks, CallTable(database), table, rules)

    async def start(self) -> None:
        """Migrates the database and warms the pool.

        Raises:
            ServiceError: The database cannot be used.
        """
        await self._database.start()
        deployment = await self._database.deployment()
        self._provider.belong_to(deployment)
        self._locks.belong_to(deployment)
        await self._pool.start()
        await self._pool.wait_warm()

    async def aclose(self) -> None:
        """Lets go of pool, locks and database."""
        await self.workspaces.aclose()
        await self._pool.aclose()
        await self._locks.aclose()
        await self._database.aclose()

    async def why_not_ready(self) -> str | None:
        """What keeps it from serving, or None."""
        return await self._database.why_not_ready() or await self._locks.why_not_ready() or self._pool.why_not_ready()


class _Pooled:
    """Implements `Sandboxes`."""

    def __init__(self, provider: SandboxProvider, table: SandboxTable, pool: SandboxPoolManager) -> None:
        self._provider = provider
        self._table = table
        self._pool = pool

    async def find(self, workspace: WorkspaceId) -> Sandbox | None:
        """See `Sandboxes.find`."""
        name = await self._table.find(workspace)
        return await self._provider.find(name) if name else None

    async def obtain(self, workspace: WorkspaceId) -> Sandbox:
        """See `Sandboxes.obtain`."""
        # Here and not where it is looked for: only who holds the workspace may conclude that its sandbox is gone. A
        # list that is late, or short, must not take it from somebody who works in it.
        name = await self._table.find(workspace)
        if name is not None:
            found = await self._provider.find(name)
            if found is not None:
                return found
            # The table outlived its sandbox: the workspace starts afresh.
            await self._pool.release(name)
        return await self._pool.checkout(workspace)

    async def abandon(self, sandbox: Sandbox) -> None:
        """See `Sandboxes.abandon`."""
        await self._pool.release(sandbox.name)
