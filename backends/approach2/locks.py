"""Locks in Redis: one writer at a time in a workspace, over all instances.

    cf:lock:<deployment>:<hash>   token of the holder; expires unless renewed
    cf:fence:<deployment>:<hash>  number of the last hold

A lock that expires while its holder still works (a paused process, a lost Redis) does no harm: every command that
writes is run under the fence of its hold (`common.fencing`), and a later hold has a greater one. The numbers never
fall, not even when Redis loses its data: they are microseconds of its clock, or one more than the last if that is
greater.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from backends.common import metrics
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.locks import WAIT_S, Fence, LocalLocks, busy, waited
from backends.common.workspace import WorkspaceId

_ERRORS: Final = (RedisError, OSError, TimeoutError)
_POLL_S: Final = (0.01, 0.06)

_ACQUIRE: Final = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local now = redis.call('TIME')
local at = now[1] * 1000000 + now[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if at <= last then at = last + 1 end
redis.call('SET', KEYS[2], string.format('%.0f', at), 'PX', ARGV[3])
return string.format('%.0f', at)
"""
_RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

T = TypeVar("T")

_log = structlog.get_logger("crossfade.approach2")


@dataclass(frozen=True, slots=True)
class LockTimes:
    """Seconds.

    Attributes:
        ttl_s: A lock whose holder is gone lasts so long.
        renew_s: Between two renewals.
        wait_s: Longest wait for another writer.
        fence_kept_s: A number is remembered so long; after that the clock alone makes it grow.
    """

    ttl_s: float = 10.0
    renew_s: float = 3.0
    wait_s: float = WAIT_S
    fence_kept_s: float = 86_400.0


class RedisLocks:
    """Implements `WorkspaceLocks` over all instances that share a Redis."""

    def __init__(self, url: str, password: str | None = None, times: LockTimes | None = None) -> None:
        """Connects on first use.

        Raises:
            ValueError: It is no URL of a Redis. It is not shown: it may hold a password.
        """
        self._times = times or LockTimes()
        # Writers of this process wait for each other here, without asking Redis again and again.
        self._here = LocalLocks(self._times.wait_s)
        self._deployment: str | None = None
        try:
            self._redis: Redis = Redis.from_url(
                url,
                password=password,
                socket_connect_timeout=0.5,
                socket_timeout=1.0,
                # A call is never sent twice behind our back: no reply does not mean not done.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            raise ValueError("CROSSFADE_REDIS_URL is no URL of a Redis") from None
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._renew = self._redis.register_script(_RENEW)
        self._release = self._redis.register_script(_RELEASE)

    def belong_to(self, deployment: str) -> None:
        """See `WorkspaceLocks.belong_to`."""
        self._deployment = deployment

    @asynccontextmanager
    async def hold(self, workspace: WorkspaceId) -> AsyncIterator[Fence]:
        """See `WorkspaceLocks.hold`."""
        # Who waits for a writer of this very process waits as well.
        async with waited(self._hold(workspace)) as fence:
            yield fence

    @asynccontextmanager
    async def _hold(self, workspace: WorkspaceId) -> AsyncIterator[Fence]:
        if self._deployment is None:
            # Under another name it would keep nobody away.
            raise ServiceError(Code.LOCKS_UNAVAILABLE, "the service is starting; try again")
        async with self._here.turn(workspace.digest):
            token = secrets.token_hex(16)
            try:
                fence = await self._wait(workspace, token)
            except BaseException:
                # The answer may have been lost, and not the lock.
                await to_the_end(self._let_go(workspace, token))
                raise
            renewing = asyncio.create_task(self._keep(workspace, token))
            try:
                yield fence
            finally:
                renewing.cancel()
                await to_the_end(asyncio.gather(renewing, self._let_go(workspace, token), return_exceptions=True))

    async def is_held(self, workspace: WorkspaceId) -> bool:
        """See `WorkspaceLocks.is_held`."""
        try:
            return bool(await _whole(self._redis.exists(self._name("lock", workspace))))
        except _ERRORS as exc:
            raise _unavailable(exc) from exc

    async def why_not_ready(self) -> str | None:
        """What keeps locks from being held, or None."""
        try:
            await _whole(self._redis.exists("cf:lock"))
        except _ERRORS as exc:
            return _unavailable(exc).message
        return None

    async def aclose(self) -> None:
        """Disconnects."""
        await self._redis.aclose()

    def _name(self, kind: str, workspace: WorkspaceId) -> str:
        return f"cf:{kind}:{self._deployment}:{workspace.digest}"

    async def _wait(self, workspace: WorkspaceId, token: str) -> int:
        keys = [self._name("lock", workspace), self._name("fence", workspace)]
        numbers: list[str | int] = [token, _ms(self._times.ttl_s), _ms(self._times.fence_kept_s)]
        until = asyncio.get_running_loop().time() + self._times.wait_s
        while True:
            try:
                fence = await _whole(self._acquire(keys=keys, args=numbers))
            except _ERRORS as exc:
                # At once: who waits for Redis to come back holds up its caller for nothing.
                raise _unavailable(exc) from exc
            if fence is not None:
                return int(fence)
            if asyncio.get_running_loop().time() >= until:
                raise busy()
            await asyncio.sleep(random.uniform(*_POLL_S))  # noqa: S311 - spreads waiters, guards nothing

    async def _keep(self, workspace: WorkspaceId, token: str) -> None:
        while True:
            await asyncio.sleep(self._times.renew_s)
            try:
                kept = await _whole(
                    self._renew(keys=[self._name("lock", workspace)], args=[token, _ms(self._times.ttl_s)])
                )
            except _ERRORS as exc:
                _log.warning("lock_not_renewed", workspace=workspace.digest, why=type(exc).__name__)
                continue
            if not kept:
                # The fence guards the workspace from here on.
                metrics.LOCKS_LOST.inc()
                _log.warning("lock_lost", workspace=workspace.digest)
                return

    async def _let_go(self, workspace: WorkspaceId, token: str) -> None:
        try:
            await self._release(keys=[self._name("lock", workspace)], args=[token])
        except _ERRORS as exc:
            # It expires.
            _log.warning("lock_not_released", workspace=workspace.digest, why=type(exc).__name__)


async def _whole(call: Awaitable[T]) -> T:
    """A call of Redis, never cancelled in the middle: it is short, and the client may swallow a cancellation."""
    return await to_the_end(call)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _unavailable(exc: Any) -> ServiceError:  # noqa: ANN401 - one of several unrelated exceptions
    return ServiceError(Code.LOCKS_UNAVAILABLE, f"locks cannot be had ({type(exc).__name__}); try again")
