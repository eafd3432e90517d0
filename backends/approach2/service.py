"""The service layer: workspaces found through a table, sandboxes from a warm pool, locks behind a protocol."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from backends.approach2.pool import SandboxPoolManager
from backends.approach2.table import SandboxTable
from backends.common.contract import Arguments, Operation
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.git_operations import Call, perform
from backends.common.locks import WorkspaceLocks
from backends.common.remotes import RemoteRules
from backends.common.sandbox import Sandbox, SandboxProvider
from backends.common.workspace import WorkspaceId

CLONE: Final = "git.clone"


class GitSandboxService:
    """Implements `GitService`.

    Attributes:
        name: `approach2`.
    """

    name = "approach2"

    def __init__(
        self,
        provider: SandboxProvider,
        table: SandboxTable,
        pool: SandboxPoolManager,
        locks: WorkspaceLocks,
        rules: RemoteRules,
    ) -> None:
        self._provider = provider
        self._table = table
        self._pool = pool
        self._locks = locks
        self._rules = rules
        self._why_not: str | None = "the pool is not warm yet"

    async def start(self) -> None:
        """Opens the table and warms the pool.

        Raises:
            ServiceError: The database cannot be used.
        """
        try:
            await self._table.start()
        except SQLAlchemyError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"the database cannot be used: {type(exc).__name__}") from exc
        await self._pool.start()
        await self._pool.wait_warm()
        self._why_not = None

    async def aclose(self) -> None:
        """Lets go of pool and database."""
        await self._pool.aclose()
        await self._table.aclose()

    async def why_not_ready(self) -> str | None:
        """What keeps it from serving, or None."""
        if self._why_not is not None:
            return self._why_not
        try:
            await self._table.check()
        except ServiceError as exc:
            return exc.message
        return None

    async def perform(
        self, operation: Operation, workspace: WorkspaceId, arguments: Arguments, call: Call
    ) -> dict[str, Any]:
        """See `GitService.perform`."""
        if not operation.is_write:
            return await self._perform(operation, workspace, arguments, call)
        async with self._locks.hold(workspace):
            return await self._perform(operation, workspace, arguments, call)

    async def _perform(
        self, operation: Operation, workspace: WorkspaceId, arguments: Arguments, call: Call
    ) -> dict[str, Any]:
        sandbox = await self._sandbox(operation, workspace)
        try:
            return await perform(operation.name, sandbox, arguments, call, self._rules)
        finally:
            if not sandbox.has_repository:
                # A first clone that failed. Callers may try any number of them, each in a workspace of its own.
                await to_the_end(self._pool.release(sandbox.name))

    async def _sandbox(self, operation: Operation, workspace: WorkspaceId) -> Sandbox:
        name = await self._table.find(workspace)
        found = await self._provider.find(name) if name else None
        if name is not None and found is None:
            # The table outlived its sandbox: the workspace starts afresh.
            await self._pool.release(name)
        if operation.name == CLONE:
            return found or await self._pool.checkout(workspace)
        if found is None or not found.has_repository:
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned into this workspace here; clone first")
        return found
