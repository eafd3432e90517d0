"""The simple server: a sandbox for each agent and task, made by its first clone; locks in memory. Simple on purpose."""

from __future__ import annotations

import asyncio
import time

from backends.approach1.expiry import IdleExpiry
from backends.approach1.leftovers import Leftovers
from backends.approach1.notes import FileNotes
from backends.common.locks import LocalLocks
from backends.common.remotes import RemoteRules
from backends.common.sandbox import Sandbox, SandboxProvider
from backends.common.service import GitService
from backends.common.workspace import WorkspaceId
from backends.common.workspaces import Workspaces


class SimpleGitService(GitService):
    """One instance, with a provider and a directory of notes."""

    name = "approach1"

    def __init__(
        self, provider: SandboxProvider, notes: FileNotes, rules: RemoteRules, idle_s: float | None = None
    ) -> None:
        """Starts nothing.

        Args:
            provider: Of sandboxes.
            notes: What earlier runs knew.
            rules: Which remotes may be used.
            idle_s: After so long without a call a workspace goes; None = never.
        """
        self._notes = notes
        locks = LocalLocks()
        self._expiry = IdleExpiry(provider, locks, notes, idle_s, time.monotonic) if idle_s is not None else None
        self._leftovers = Leftovers(provider, locks, notes, time.monotonic)
        self._sweeping: list[asyncio.Task[None]] = []
        sandboxes = _ByName(provider, self._expiry, self._leftovers)
        self.workspaces = Workspaces(sandboxes, locks, notes, notes, rules)

    async def start(self) -> None:
        """Reads the notes.

        Raises:
            ServiceError: They cannot be read.
        """
        await self._notes.start()
        self._sweeping.append(asyncio.create_task(self._leftovers.run()))
        if self._expiry is not None:
            self._sweeping.append(asyncio.create_task(self._expiry.run()))

    async def aclose(self) -> None:
        """Ends surveys; what was noted is on disk."""
        for task in self._sweeping:
            task.cancel()
        await asyncio.gather(*self._sweeping, return_exceptions=True)
        await self._leftovers.aclose()
        await self.workspaces.aclose()
        self._notes.close()

    async def why_not_ready(self) -> str | None:
        """What keeps it from serving, or None. Calls that come all the same wait for the notes."""
        return None if self._notes.is_read else "the notes of earlier runs are not read yet"


class _ByName:
    """Implements `Sandboxes`: a sandbox is named after its workspace, so a restart finds it without a table."""

    def __init__(self, provider: SandboxProvider, expiry: IdleExpiry | None, leftovers: Leftovers) -> None:
        self._provider = provider
        self._expiry = expiry
        self._leftovers = leftovers

    async def find(self, workspace: WorkspaceId) -> Sandbox | None:
        """See `Sandboxes.find`."""
        if self._expiry is not None:
            self._expiry.used(workspace)
        found = await self._provider.find(workspace.digest)
        if found is None:
            self._leftovers.lost(workspace)
        return found

    async def obtain(self, workspace: WorkspaceId) -> Sandbox:
        """See `Sandboxes.obtain`."""
        labels = {"agent": workspace.agent_id, "task": workspace.task_id}
        return await self._provider.create(workspace.digest, labels)

    async def abandon(self, sandbox: Sandbox) -> None:
        """See `Sandboxes.abandon`."""
        await self._provider.destroy(sandbox.name)
