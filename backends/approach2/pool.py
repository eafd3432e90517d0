"""The warm pool: sandboxes that are ready before somebody needs one.

The table is the truth, and all instances share what is warm in it: what a dead instance left is taken over by the
others. Each instance remembers which are warm, so that a checkout asks nobody; whoever is second to claim one takes
the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from backends.approach2.leaks import LeakSweep
from backends.approach2.making import PoolFullError, SandboxMaker
from backends.approach2.models import SandboxState
from backends.approach2.pace import Pace
from backends.approach2.pool_settings import PoolSettings
from backends.approach2.table import SandboxTable
from backends.approach2.upkeep import forever
from backends.common import metrics
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.locks import WorkspaceLocks
from backends.common.sandbox import Sandbox, SandboxProvider
from backends.common.workspace import WorkspaceId

_LEARN_S: Final = 5.0
"""Age of what is known of other instances' doings."""
_LOOKS: Final = 3
"""At each warm sandbox, in the time after which it would be gone."""
_LOOK_S: Final = 600.0
"""Between them, where a sandbox stays."""
_DRAIN_S: Final = 5.0
_ATTEMPTS: Final = 5

_log = structlog.get_logger("crossfade.approach2")


class SandboxPoolManager:
    """Keeps sandboxes warm and gives them to workspaces."""

    def __init__(
        self, provider: SandboxProvider, table: SandboxTable, locks: WorkspaceLocks, settings: PoolSettings
    ) -> None:
        self._provider = provider
        self._table = table
        self._leaks = LeakSweep(provider, table, locks, settings.again_s)
        self._settings = settings
        terms = provider.terms
        self._pace = Pace(settings.creations_per_s or terms.creations_per_s)
        self._maker = SandboxMaker(provider, table, self._leaks, settings.total)
        self._look_s = terms.life_s / _LOOKS if terms.life_s is not None else _LOOK_S
        self._warm: deque[str] = deque()
        self._claiming: set[str] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._wanted = asyncio.Event()
        self._is_full = asyncio.Event()
        self._trouble: str | None = None
        self._has_been_full = False
        self._tasks: list[asyncio.Task[None]] = []
        metrics.POOL_WARM.set_function(lambda: len(self._warm))

    @property
    def warm(self) -> int:
        """How many are waiting."""
        return len(self._warm)

    def why_not_ready(self) -> str | None:
        """What keeps new workspaces from being served, or None.

        A pool that a burst has emptied is ready: it makes more. One that is empty and cannot make more is not.
        """
        if self._warm and self._has_been_full:
            return None
        return self._trouble or (None if self._has_been_full else "the pool is not warm yet")

    async def start(self) -> None:
        """Takes over what is warm, removes what belongs to nothing, and begins to refill.

        Raises:
            ServiceError: `sandbox_unavailable`.
        """
        await self.sweep()
        await self._learn()
        await self.look_after()
        keeping: dict[str, tuple[Callable[[], Awaitable[None]], float]] = {
            "look_after": (self.look_after, self._look_s),
            "sweep": (self._leaks.sweep_in_time, 0.0),
            "learn": (self._learn_and_refill, _LEARN_S),
            "refill": (self._keep_refilled, 0.0),
        }
        self._tasks = [asyncio.create_task(forever(name, *how)) for name, how in keeping.items()]

    async def sweep(self) -> None:
        """See `LeakSweep.sweep`."""
        await self._leaks.sweep()

    async def look_after(self) -> None:
        """Prolongs the life of what is warm, and removes what is not well.

        Raises:
            ServiceError: The provider or the database cannot be asked.
        """
        for name in list(self._warm):
            # It may have been given away meanwhile.
            if name in self._warm and await self._healthy(name) is None:
                with contextlib.suppress(ValueError):
                    self._warm.remove(name)
                await self._drop_warm(name)
        self._wanted.set()

    async def wait_warm(self) -> None:
        """Returns once the pool is as warm as it should be, or as it may be."""
        await self._is_full.wait()

    async def checkout(self, workspace: WorkspaceId) -> Sandbox:
        """A sandbox for a workspace that has none. Only under the workspace's lock.

        Raises:
            ServiceError: `sandbox_unavailable`.
        """
        with metrics.CHECKOUT_SECONDS.time():
            return await self._checkout(workspace)

    async def release(self, name: str) -> None:
        """A sandbox is broken or not needed any more; it is gone when this returns or raises."""
        await to_the_end(self._leaks.remove(name))

    async def aclose(self) -> None:
        """Stops refilling. Warm sandboxes stay, for the other instances and the next run, unless they are drained."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._settings.is_drained:
            with contextlib.suppress(TimeoutError, ServiceError):
                async with asyncio.timeout(_DRAIN_S):
                    await asyncio.gather(*map(self._drain, await self._table.named(SandboxState.WARM)))

    # --- giving away -----------------------------------------------------------------------------------------------

    async def _checkout(self, workspace: WorkspaceId) -> Sandbox:
        # Other instances may have given away what seems warm here.
        for _ in range(_ATTEMPTS + len(self._warm)):
            name = await self._take(workspace)
            self._claiming.add(name)
            try:
                sandbox = await self._claim(name, workspace)
            except BaseException:
                await to_the_end(self._undo(name, workspace))
                raise
            finally:
                self._claiming.discard(name)
                # Not before: it would compete with the one who waits.
                self._refill_soon()
            if sandbox is not None:
                return sandbox
            taken = await self._table.find(workspace)
            found = await self._provider.find(taken) if taken else None
            if found is not None:
                return found
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, "no sandbox could be had")

    async def _take(self, workspace: WorkspaceId) -> str:
        if self._warm:
            return self._warm.popleft()
        # Who refills lets go first whoever waits.
        self._waiting += 1
        self._nobody_waits.clear()
        try:
            await self._learn()
            has_made_room = False
            while not self._warm:
                try:
                    async with self._pace.turn():
                        # One may have become warm while others were made.
                        return self._warm.popleft() if self._warm else await self._maker.make(_labels(workspace))
                except PoolFullError:
                    if self._making:
                        # The last of those that there may be is on its way into the pool: it will do.
                        await asyncio.wait(self._making, return_when=asyncio.FIRST_COMPLETED)
                    elif not has_made_room:
                        has_made_room = True
                        await self._leaks.make_room()
                    elif not self._warm:
                        raise
            return self._warm.popleft()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._nobody_waits.set()

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

    async def _undo(self, name: str, workspace: WorkspaceId) -> None:
        """Nobody will use it: how far it was given away, only the table knows."""
        # Where the table does not say either, a sweep finds it.
        with contextlib.suppress(ServiceError):
            if await self._table.find(workspace) == name:
                await self._leaks.remove(name)
            else:
                await self._put_back(name)

    async def _put_back(self, name: str) -> None:
        if await self._table.put_warm(name):
            self._warm.append(name)

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

    async def _drain(self, name: str) -> None:
        with contextlib.suppress(ServiceError):
            if await self._table.remove_warm(name):
                await self._provider.destroy(name)

    # --- refilling -------------------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Which are warm: other instances make some, give some away, and leave some when they die."""
        before = set(self._warm)
        there = await self._table.named(SandboxState.WARM)
        still = set(there)
        # What was put here while the table was asked stays.
        kept = [name for name in self._warm if name in still or name not in before]
        new = [name for name in there if name not in kept and name not in self._claiming]
        self._warm = deque([*kept, *new])
        counts = await self._table.counts()
        metrics.POOL_IN_USE.set(counts[SandboxState.ASSIGNED])
        metrics.POOL_CREATING.set(counts[SandboxState.CREATING])

    async def _learn_and_refill(self) -> None:
        await self._learn()
        self._refill_soon()

    def _refill_soon(self) -> None:
        if len(self._warm) < self._settings.warm:
            self._is_full.clear()
            self._wanted.set()

    async def _keep_refilled(self) -> None:
        """Waits until some are missing, and makes them."""
        await self._wanted.wait()
        self._wanted.clear()
        try:
            is_full = await self._refill()
        except Exception as exc:
            self._trouble = exc.message if isinstance(exc, ServiceError) else type(exc).__name__
            self._wanted.set()
            raise
        self._trouble = None
        if is_full or len(self._warm) >= self._settings.warm:
            self._has_been_full = True
            self._is_full.set()

    async def _refill(self) -> bool:
        """Makes what is missing; returns whether there are as many as there may be."""
        making: list[asyncio.Task[None]] = []
        failures: list[BaseException | None] = []
        try:
            while len(self._warm) + sum(not task.done() for task in making) < self._settings.warm and not any(failures):
                await self._nobody_waits.wait()
                await self._pace.begin()
                making.append(task := asyncio.create_task(self._make_warm()))
                self._making.add(task)
                task.add_done_callback(self._making.discard)
                failures = [task.exception() for task in making if task.done()]
            # Those that succeed are wanted, whatever becomes of the others.
            failures = await asyncio.gather(*making, return_exceptions=True)
        finally:
            for task in making:
                task.cancel()
            await asyncio.gather(*making, return_exceptions=True)
        for failure in failures:
            if failure is not None and not isinstance(failure, PoolFullError):
                raise failure
        return any(failures)

    async def _make_warm(self) -> None:
        """In a turn that has begun."""
        try:
            await self._put_back(await self._maker.make({}))
        finally:
            self._pace.end()


def _labels(workspace: WorkspaceId) -> dict[str, str]:
    return {"agent": workspace.agent_id, "task": workspace.task_id}
