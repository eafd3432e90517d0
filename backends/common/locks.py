"""One writer at a time in a workspace.

In memory here, which is right for one instance; `approach2.locks` does it in Redis for any number of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, Protocol, TypeVar

from backends.common import metrics
from backends.common.errors import Code, ServiceError
from backends.common.workspace import WorkspaceId

WAIT_S: Final = 5.0

Fence = int | None
"""Number of a hold: of two of one workspace the later has the greater. None where there is but one instance."""


T = TypeVar("T")


class WorkspaceLocks(Protocol):
    """Serialises writers by workspace."""

    def belong_to(self, deployment: str) -> None:
        """Says whose workspaces these are, before any is held: other deployments may have workspaces of that name."""
        ...

    def hold(self, workspace: WorkspaceId) -> AbstractAsyncContextManager[Fence]:
        """Holds a workspace.

        Raises:
            ServiceError: `workspace_busy`: another writer held it for too long. `locks_unavailable`: nobody can say.
        """
        ...

    async def is_held(self, workspace: WorkspaceId) -> bool:
        """Whether a writer holds a workspace now.

        Raises:
            ServiceError: `locks_unavailable`.
        """
        ...

    async def why_not_ready(self) -> str | None:
        """What keeps locks from being held, or None."""
        ...

    async def aclose(self) -> None:
        """Lets go of what locks are made of."""
        ...


@asynccontextmanager
async def waited(hold: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """A hold, with a note of how long it was waited for, whether it was had or not."""
    async with AsyncExitStack() as held:
        with metrics.LOCK_WAIT_SECONDS.time():
            fence = await held.enter_async_context(hold)
        yield fence


class LocalLocks:
    """Implements `WorkspaceLocks` in this process. Locks that nobody holds or awaits take no memory."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        # By the digests of workspaces, which sandboxes may be named after.
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    def hold(self, workspace: WorkspaceId) -> AbstractAsyncContextManager[Fence]:
        """See `WorkspaceLocks.hold`."""
        return self.hold_named(workspace.digest)

    @asynccontextmanager
    async def hold_named(self, digest: str) -> AsyncIterator[Fence]:
        """As `hold`, where only the digest of the workspace is known."""
        async with waited(self.turn(digest)):
            yield None

    def belong_to(self, deployment: str) -> None:
        """See `WorkspaceLocks.belong_to`. A process is of one deployment."""

    @asynccontextmanager
    async def turn(self, digest: str) -> AsyncIterator[None]:
        """As `hold_named`, for locks that are made of these and measure the whole of the wait."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        self._users[digest] = self._users.get(digest, 0) + 1
        try:
            try:
                async with asyncio.timeout(self._wait_s):
                    await lock.acquire()
            except TimeoutError as exc:
                raise busy() from exc
            try:
                yield
            finally:
                lock.release()
        finally:
            self._users[digest] -= 1
            if not self._users[digest]:
                del self._users[digest], self._locks[digest]

    async def is_held(self, workspace: WorkspaceId) -> bool:
        """See `WorkspaceLocks.is_held`."""
        lock = self._locks.get(workspace.digest)
        return lock is not None and lock.locked()

    async def why_not_ready(self) -> str | None:
        """Always ready."""
        return None

    async def aclose(self) -> None:
        """Holds nothing."""


def busy() -> ServiceError:
    """Another writer held the workspace for too long."""
    return ServiceError(Code.WORKSPACE_BUSY, "another operation changes the workspace; try again")
