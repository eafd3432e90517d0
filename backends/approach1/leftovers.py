"""Sandboxes that no workspace has, and workspaces that have no sandbox: found by comparing two lists, and removed.

A service that was killed in a first clone leaves a sandbox in no inventory; a sandbox that its provider has ended
leaves a record; keyed calls of workspaces that never were leave notes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from backends.common import metrics
from backends.common.errors import ServiceError
from backends.common.finishing import to_the_end
from backends.common.inventory import Record
from backends.common.locks import LocalLocks
from backends.common.sandbox import SandboxProvider
from backends.common.workspace import WorkspaceId

SWEEP_S: Final = 600.0
ABANDONED_S: Final = 600.0
"""No operation takes as long."""

_log = structlog.get_logger("crossfade.approach1")


class SweptNotes(Protocol):
    """What is noted of workspaces."""

    def records(self) -> list[Record]:
        """Every workspace that holds something."""
        ...

    def holds_something(self, workspace: WorkspaceId) -> bool:
        """Whether a workspace does."""
        ...

    async def expired(self, workspace: WorkspaceId) -> None:
        """A workspace holds nothing any more; its keyed calls are still known."""
        ...

    async def prune(self) -> None:
        """Drops what counts no more."""
        ...


class Leftovers:
    """Finds what is left over, and removes it."""

    def __init__(
        self, provider: SandboxProvider, locks: LocalLocks, notes: SweptNotes, clock: Callable[[], float]
    ) -> None:
        """Looks at nothing yet.

        Args:
            provider: Of the sandboxes, each named by the digest of its workspace.
            locks: Of the workspaces.
            notes: What is known of them.
            clock: Seconds, monotonic.
        """
        self._provider = provider
        self._locks = locks
        self._notes = notes
        self._clock = clock
        self._unnoted: dict[str, float] = {}
        self._losing: dict[WorkspaceId, asyncio.Task[None]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether it looks at a workspace whose sandbox was not found."""
        return bool(self._losing)

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except ServiceError as exc:
                # The provider is away, or the disk full: the next sweep looks again.
                _log.warning("sweep_failed", why=exc.message)
            await asyncio.sleep(SWEEP_S)

    async def aclose(self) -> None:
        """Ends what it does."""
        losing = list(self._losing.values())
        for task in losing:
            task.cancel()
        await asyncio.gather(*losing, return_exceptions=True)

    async def sweep(self) -> None:
        """Looks at everything once.

        Raises:
            ServiceError: It cannot be looked at.
        """
        there = set(await self._provider.names())
        noted = {record.workspace.digest: record.workspace for record in self._notes.records()}
        for digest in noted.keys() - there:
            # A list may have been short.
            await self._forget(noted[digest])
        now = self._clock()
        self._unnoted = {name: self._unnoted.get(name, now) for name in there - noted.keys()}
        for name in [name for name, since in self._unnoted.items() if now - since >= ABANDONED_S]:
            await self._remove(name)
        await self._notes.prune()

    def lost(self, workspace: WorkspaceId) -> None:
        """Somebody did not find the sandbox of a workspace. It is looked at again when nobody holds it."""
        if self._notes.holds_something(workspace) and workspace not in self._losing:
            task = self._losing[workspace] = asyncio.create_task(self._forget(workspace))
            task.add_done_callback(lambda _: self._losing.pop(workspace, None))

    async def _forget(self, workspace: WorkspaceId) -> None:
        try:
            async with self._locks.hold(workspace):
                if await self._provider.find(workspace.digest) is None:
                    # What its provider still keeps of it. Before the record, by which it is looked for again.
                    await to_the_end(self._provider.destroy(workspace.digest))
                    await to_the_end(self._notes.expired(workspace))
                    _log.warning("workspace_lost", workspace=workspace.digest)
        except ServiceError as exc:
            _log.warning("workspace_not_forgotten", workspace=workspace.digest, why=exc.message)

    async def _remove(self, name: str) -> None:
        try:
            async with self._locks.hold_named(name):
                sandbox = await self._provider.find(name)
                if sandbox is not None and await sandbox.retire():
                    await to_the_end(self._provider.destroy(name))
                    metrics.LEAKS_REMOVED.inc()
                    _log.warning("leftover_removed", sandbox=name)
        except ServiceError as exc:
            _log.warning("leftover_not_removed", sandbox=name, why=exc.message)
