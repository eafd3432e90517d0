"""The warm pool: sandboxes that are ready before somebody needs one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from backends.approach2.models import SandboxState
from backends.approach2.table import SandboxTable
from backends.common import metrics
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.sandbox import Sandbox, SandboxProvider
from backends.common.workspace import WorkspaceId

_REFILL_PAUSE_S: Final = 1.0
_SWEEP_S: Final = 600.0
_ATTEMPTS: Final = 5
_LONGEST_CREATION: Final = timedelta(minutes=10)
MINIMUM: Final = 3
"""Fewer would make the pool pointless."""
MOST: Final = 10_000

_log = structlog.get_logger("crossfade.approach2")


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How many sandboxes there are.

    Attributes:
        warm: Kept waiting, at least.
        total: Of all, at most.
    """

    warm: int = MINIMUM
    total: int = MOST

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> PoolSize:
        """Reads `CROSSFADE_POOL_WARM` and `CROSSFADE_POOL_TOTAL`.

        Raises:
            ValueError: One is no number, fewer than 3 are to be warm, or more than there may be.
        """
        warm = int(env.get("CROSSFADE_POOL_WARM") or MINIMUM)
        total = int(env.get("CROSSFADE_POOL_TOTAL") or MOST)
        if not MINIMUM <= warm <= total:
            raise ValueError(f"CROSSFADE_POOL_WARM={warm} must be {MINIMUM} to CROSSFADE_POOL_TOTAL={total}")
        return cls(warm, total)


class SandboxPoolManager:
    """Keeps sandboxes warm and gives them to workspaces."""

    def __init__(self, provider: SandboxProvider, table: SandboxTable, size: PoolSize) -> None:
        self._provider = provider
        self._table = table
        self._size = size
        self._warm: deque[str] = deque()
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_full = asyncio.Event()
        self._making = asyncio.Lock()
        metrics.POOL_WARM.set_function(lambda: len(self._warm))

    @property
    def warm(self) -> int:
        """How many are waiting."""
        return len(self._warm)

    async def start(self) -> None:
        """Takes over what an earlier run left warm, removes what no row names, and begins to refill.

        Raises:
            ServiceError: `sandbox_unavailable`.
        """
        await self.sweep()
        for name in await self._table.named(SandboxState.WARM):
            if await self._healthy(name) is not None:
                self._warm.append(name)
            else:
                await self._drop_warm(name)
        self._wanted.set()
        self._tasks = [asyncio.create_task(self._refill()), asyncio.create_task(self._keep_swept())]

    async def sweep(self) -> None:
        """Removes sandboxes that no row names, and rows whose sandbox is gone; any instance may, at any time.

        Raises:
            ServiceError: The provider or the database cannot be asked.
        """
        for name in await self._table.never_made(_LONGEST_CREATION):
            await self._drop(name)
        assigned = await self._table.named(SandboxState.ASSIGNED)
        # In this order: what is made meanwhile by another instance is noted before it is there.
        there = set(await self._provider.names())
        known = set(await self._table.names())
        for name in there - known:
            await self._remove_unknown(name)
        for name in set(assigned) - there:
            # A list may have been short; a row is not forgotten for that.
            if await self._provider.find(name) is None:
                await self._drop(name)

    async def wait_warm(self) -> None:
        """Returns once the pool is as warm as it should be."""
        await self._is_full.wait()

    async def checkout(self, workspace: WorkspaceId) -> Sandbox:
        """A sandbox for a workspace that has none.

        Raises:
            ServiceError: `sandbox_unavailable`.
        """
        with metrics.CHECKOUT_SECONDS.time():
            return await self._checkout(workspace)

    async def _checkout(self, workspace: WorkspaceId) -> Sandbox:
        # Other instances may have given away what is warm here.
        for _ in range(_ATTEMPTS + len(self._warm)):
            name = await self._take()
            self._is_full.clear()
            self._wanted.set()
            try:
                sandbox = await self._claim(name, workspace)
            except BaseException:
                # Whether it was given away, only the table knows.
                await to_the_end(self._put_back(name))
                raise
            if sandbox is not None:
                return sandbox
            taken = await self._table.find(workspace)
            found = await self._provider.find(taken) if taken else None
            if found is not None:
                return found
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, "no sandbox could be had")

    async def release(self, name: str) -> None:
        """A sandbox is broken or not needed any more; it is gone when this returns or raises."""
        await to_the_end(self._drop(name))

    async def aclose(self) -> None:
        """Stops refilling. Warm sandboxes stay for the next run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_swept(self) -> None:
        # An instance that is killed, and does not come back, leaves what the others must find.
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self.sweep()
            except ServiceError as exc:
                _log.warning("sweep_failed", why=exc.message)

    async def _refill(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while len(self._warm) < self._size.warm:
                    async with self._making:
                        self._warm.append(await self._create())
                self._is_full.set()
            except ServiceError as exc:
                _log.error("pool_not_refilled", why=exc.message)
                await asyncio.sleep(_REFILL_PAUSE_S)
                self._wanted.set()

    async def _take(self) -> str:
        if self._warm:
            return self._warm.popleft()
        async with self._making:
            # One may have become warm while another was made.
            return self._warm.popleft() if self._warm else await self._create()

    async def _claim(self, name: str, workspace: WorkspaceId) -> Sandbox | None:
        """The sandbox, if it is well and the workspace has none yet."""
        sandbox = await self._healthy(name)
        if sandbox is None:
            await self._drop_warm(name)
        elif await self._table.assign(name, workspace):
            return sandbox
        else:
            await self._put_back(name)
        return None

    async def _put_back(self, name: str) -> None:
        # Where the table does not say, the next run takes over what is warm.
        with contextlib.suppress(ServiceError):
            if name in await self._table.named(SandboxState.WARM):
                self._warm.append(name)

    async def _remove_unknown(self, name: str) -> None:
        found = await self._provider.find(name)
        if found is not None and found.has_repository:
            # Of another table: whoever works in it still wants it.
            _log.warning("unknown_sandbox_kept", sandbox=name)
        else:
            # Made, and then the service ended before it was noted.
            metrics.LEAKS_REMOVED.inc()
            await self._provider.destroy(name)

    async def _create(self) -> str:
        if len(await self._provider.names()) >= self._size.total:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, "there are as many sandboxes as there may be")
        name = secrets.token_hex(16)
        try:
            await self._table.add(name)
            await self._provider.create(name)
            await self._table.made(name)
        except BaseException:
            # Nobody would ever use it, and each attempt would leave one.
            with contextlib.suppress(ServiceError):
                await to_the_end(self._drop(name))
            raise
        return name

    async def _healthy(self, name: str) -> Sandbox | None:
        sandbox = await self._provider.find(name)
        if sandbox is None or sandbox.has_repository or not await sandbox.is_healthy():
            return None
        return sandbox

    async def _drop_warm(self, name: str) -> None:
        """Removes a sandbox that is not fit to be given away; not one that another instance has given away."""
        # The row first: whoever assigns it would have to find it.
        if await self._table.remove_warm(name):
            metrics.POOL_DROPPED.inc()
            _log.warning("sandbox_dropped", sandbox=name)
            await self._provider.destroy(name)

    async def _drop(self, name: str) -> None:
        await self._provider.destroy(name)
        await self._table.remove(name)
