"""Workspaces that nobody uses any more go, where the operator wants that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from backends.common.errors import ServiceError
from backends.common.finishing import to_the_end
from backends.common.inventory import Record
from backends.common.locks import WorkspaceLocks
from backends.common.sandbox import SandboxProvider
from backends.common.workspace import WorkspaceId

SHORTEST_S: Final = 600.0
"""No operation takes as long: what is read for so long by nobody is in no one's hands."""
_SWEEPS: Final = 10
"""Sweeps in the time after which a workspace goes."""
_SWEEP_AT_LEAST_S: Final = 1.0

_log = structlog.get_logger("crossfade.approach1")


class ExpiringNotes(Protocol):
    """What is noted of workspaces."""

    def records(self) -> list[Record]:
        """Every workspace that holds something."""
        ...

    async def expired(self, workspace: WorkspaceId) -> None:
        """A workspace holds nothing any more; its keyed calls are still known."""
        ...


def idle_from_env(env: Mapping[str, str]) -> float | None:
    """Reads `CROSSFADE_IDLE_EXPIRY_S`; None = workspaces stay.

    Raises:
        ValueError: It is no number of seconds, or too short.
    """
    text = env.get("CROSSFADE_IDLE_EXPIRY_S")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not SHORTEST_S <= value < float("inf"):
        raise ValueError(f"CROSSFADE_IDLE_EXPIRY_S={text} is no number of seconds from {SHORTEST_S:g} on")
    return value


class IdleExpiry:
    """Destroys sandboxes that were not used for some time. What is used when it starts counts as used then."""

    def __init__(
        self,
        provider: SandboxProvider,
        locks: WorkspaceLocks,
        notes: ExpiringNotes,
        idle_s: float,
        clock: Callable[[], float],
    ) -> None:
        """Begins to count.

        Args:
            provider: Of the sandboxes.
            locks: Of the workspaces.
            notes: What is known of them.
            idle_s: After which one goes.
            clock: Seconds, monotonic.
        """
        self._provider = provider
        self._locks = locks
        self._notes = notes
        self._idle_s = idle_s
        self._clock = clock
        self._started = clock()
        self._used: dict[WorkspaceId, float] = {}

    def used(self, workspace: WorkspaceId) -> None:
        """A workspace is used now."""
        self._used[workspace] = self._clock()

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            await asyncio.sleep(max(_SWEEP_AT_LEAST_S, self._idle_s / _SWEEPS))
            await self.sweep()

    async def sweep(self) -> None:
        """Looks at every workspace once."""
        for record in self._notes.records():
            if self._is_idle(record.workspace):
                try:
                    await self._expire(record.workspace)
                except ServiceError as exc:
                    # Somebody came, or the provider is away: the next sweep looks again.
                    _log.warning("workspace_not_expired", workspace=record.workspace.digest, why=exc.message)
        # Callers may name any number of workspaces that do not exist.
        self._used = {workspace: at for workspace, at in self._used.items() if self._clock() - at < self._idle_s}

    def _is_idle(self, workspace: WorkspaceId) -> bool:
        return self._clock() - self._used.get(workspace, self._started) >= self._idle_s

    async def _expire(self, workspace: WorkspaceId) -> None:
        async with self._locks.hold(workspace):
            # Whoever held it meanwhile has used it.
            if not self._is_idle(workspace):
                return
            await to_the_end(self._provider.destroy(workspace.digest))
            await to_the_end(self._notes.expired(workspace))
            _log.info("workspace_expired", workspace=workspace.digest)
