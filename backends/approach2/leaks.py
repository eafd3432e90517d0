"""Sandboxes and rows that belong to nothing: what instances leave that are killed, and callers that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final

import structlog

from backends.approach2.table import Assigned, SandboxTable
from backends.common import metrics
from backends.common.calls import now
from backends.common.errors import ServiceError
from backends.common.finishing import to_the_end
from backends.common.locks import WorkspaceLocks
from backends.common.sandbox import SandboxProvider

LONGEST: Final = timedelta(minutes=10)
"""No creation and no operation takes as long."""
SWEEP_S: Final = 600.0
AGAIN_S: Final = 15.0
"""Longer than the lock of an instance that was killed lasts."""

_log = structlog.get_logger("crossfade.approach2")


class LeakSweep:
    """Finds and removes them. Any instance may, at any time, whatever the others do."""

    def __init__(
        self, provider: SandboxProvider, table: SandboxTable, locks: WorkspaceLocks, again_s: float = AGAIN_S
    ) -> None:
        """Looks at nothing yet.

        Args:
            provider: Of the sandboxes.
            table: Of their rows.
            locks: Of the workspaces.
            again_s: After a sweep that could not look at everything, until the next; and at least between two that
                somebody asks for who finds the pool full.
        """
        self._provider = provider
        self._table = table
        self._locks = locks
        self._again_s = again_s
        self._pause_s = again_s
        self._seeking_room = asyncio.Lock()
        self._sought_room_at = float("-inf")

    async def sweep_in_time(self) -> None:
        """Sweeps after the pause that the last sweep left: a short one where it failed, or where somebody was at work.

        Raises:
            ServiceError: The provider or the database cannot be asked.
        """
        await asyncio.sleep(self._pause_s)
        await self.sweep()

    async def make_room(self) -> None:
        """Sweeps for somebody who finds the pool full, unless that was done just now: rows of the dead count too."""
        async with self._seeking_room:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._sought_room_at >= self._again_s:
                self._sought_room_at = now_s
                with contextlib.suppress(ServiceError):
                    await self.sweep()

    async def sweep(self) -> None:
        """Removes sandboxes that no row names, rows whose sandbox is gone, and sandboxes that nobody cloned into.

        Raises:
            ServiceError: The provider or the database cannot be asked.
        """
        self._pause_s = self._again_s
        is_done = [await self._try(name, self.remove(name)) for name in await self._table.never_made(LONGEST)]
        assigned = await self._table.assigned()
        # In this order: what is made meanwhile by another instance is noted before it is there.
        there = set(await self._provider.names())
        known = set(await self._table.names())
        for name in there - known:
            # Nobody waits for these: one that cannot be removed is not tried again soon.
            await self._try(name, self._remove_unknown(name))
        doubtful = [row for row in assigned if row.name not in there or _is_overdue(row)]
        is_done += [await self._look(row) for row in doubtful]
        if all(is_done):
            self._pause_s = SWEEP_S

    async def remove(self, name: str) -> None:
        """Removes a sandbox and its row, in this order: what is left of a failure is found again."""
        await self._provider.destroy(name)
        await self._table.remove(name)

    async def _try(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Does something about one sandbox; False where that failed: one that is damaged keeps none from the others."""
        try:
            await work
        except ServiceError as exc:
            _log.warning("sandbox_not_swept", sandbox=name, why=exc.message)
            return False
        return True

    async def _look(self, row: Assigned) -> bool:
        """Removes a row whose sandbox is gone or was never used; False where somebody works there, or may."""
        try:
            if await self._locks.is_held(row.workspace):
                # It is looked at again soon. Where many sandboxes died under many callers, waiting for each of them
                # in turn would keep an instance from starting for minutes.
                return False
        except ServiceError as exc:
            _log.warning("sandbox_not_swept", sandbox=row.name, why=exc.message)
            return False
        # Where somebody is there after all, or the locks are away, the next sweep looks again.
        return await self._try(row.name, self._look_under_lock(row))

    async def _look_under_lock(self, row: Assigned) -> None:
        async with self._locks.hold(row.workspace):
            if await self._table.find(row.workspace) != row.name:
                return
            # A list may have been short; a row is not forgotten for that.
            found = await self._provider.find(row.name)
            if found is None or (not found.has_repository and _is_overdue(row)):
                metrics.LEAKS_REMOVED.inc()
                await to_the_end(self.remove(row.name))

    async def _remove_unknown(self, name: str) -> None:
        found = await self._provider.find(name)
        if found is not None and found.has_repository:
            # Of another table: whoever works in it still wants it.
            _log.warning("unknown_sandbox_kept", sandbox=name)
        else:
            # Made, and then the service ended before it was noted.
            metrics.LEAKS_REMOVED.inc()
            await self._provider.destroy(name)


def _is_overdue(row: Assigned) -> bool:
    """Whether a first clone should have ended long ago: its service was killed in the middle of it."""
    return not row.is_used and now() - row.since > LONGEST
