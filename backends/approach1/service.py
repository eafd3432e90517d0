"""The simple server: a sandbox for each agent and task, made by its first clone; locks in memory. Simple on purpose."""

from __future__ import annotations

from typing import Any, Final

from backends.common.contract import Arguments, Operation
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.git_operations import Call, perform
from backends.common.locks import LocalLocks
from backends.common.remotes import RemoteRules
from backends.common.sandbox import Sandbox, SandboxProvider
from backends.common.workspace import WorkspaceId

CLONE: Final = "git.clone"


class SimpleGitService:
    """Implements `GitService` with nothing but a provider.

    Attributes:
        name: `approach1`.
    """

    name = "approach1"

    def __init__(self, provider: SandboxProvider, rules: RemoteRules) -> None:
        self._provider = provider
        self._rules = rules
        self._locks = LocalLocks()

    async def start(self) -> None:
        """Needs no preparation."""

    async def aclose(self) -> None:
        """Holds nothing."""

    async def why_not_ready(self) -> str | None:
        """Always ready."""
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
                await to_the_end(self._provider.destroy(sandbox.name))

    async def _sandbox(self, operation: Operation, workspace: WorkspaceId) -> Sandbox:
        # The name of a sandbox follows from its workspace, so a restart finds it again without any table.
        found = await self._provider.find(workspace.digest)
        if operation.name == CLONE:
            return found or await self._provider.create(workspace.digest)
        if found is None or not found.has_repository:
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned into this workspace here; clone first")
        return found
