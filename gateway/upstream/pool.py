"""The connections to one instance: how many, who may have one, who waits.

Owns the bounds. Idle connections are taken last in, first out, so that the ones not needed grow old and are closed by
one timer; exchanges wait first in, first out, for a bounded time. It must not know requests or answers.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import Counter, OrderedDict

from gateway.core.model import ErrorCode
from gateway.errors import Phase, UpstreamError
from gateway.upstream.connection import Connection
from gateway.upstream.dial import Dialer
from gateway.upstream.limits import UpstreamLimits
from gateway.upstream.stats import DropReason

_Grant = Connection | None
"""What a waiting exchange is given: a connection, or the place to open one."""


class Pool:
    """Connections to one instance.

    Every place is held by exactly one of: an open connection, an attempt to open one, a grant on its way to a waiter.

    Attributes:
        name: Of the instance.
        drops: Connections closed, by reason; shared by the pools of a side.
    """

    def __init__(self, name: str, dialer: Dialer, limits: UpstreamLimits, drops: Counter[DropReason]) -> None:
        """Empty; needs a running loop.

        Args:
            name: Of the instance, for errors.
            dialer: Opens connections to it.
            limits: Bounds.
            drops: Where closed connections are counted.
        """
        self.name = name
        self.drops = drops
        self._dialer = dialer
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._waiters: OrderedDict[asyncio.Future[_Grant], bool] = OrderedDict()
        self._connecting = 0
        self._reaper: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._is_closed = False

    def __repr__(self) -> str:
        return (
            f"<Pool {self.name} connecting={self.connecting} idle={self.idle} in_use={self.in_use} "
            f"waiting={self.waiting}{' retired' if self._is_retired else ''} {list(self._open)}>"
        )

    @property
    def connecting(self) -> int:
        """Connections being opened."""
        return self._connecting

    @property
    def idle(self) -> int:
        """Open connections without an exchange."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """Open connections with one."""
        return len(self._open) - len(self._idle)

    @property
    def waiting(self) -> int:
        """Exchanges that wait for a connection."""
        return len(self._waiters)

    @property
    def load(self) -> int:
        """Exchanges that this instance has to do with now."""
        return len(self._open) - len(self._idle) + self._connecting + len(self._waiters)

    # -- getting a connection ---------------------------------------------------------------------------------------

    def take(self) -> Connection | None:
        """The youngest idle connection that is alive, or None. Start an exchange on it before anything awaits."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.can_start():
                return connection
            connection.close(DropReason.STALE)
        return None

    async def acquire(self, deadline: float, *, is_fresh: bool = False) -> Connection:
        """A connection on which an exchange can start now: idle, new, or after waiting for one.

        Args:
            deadline: On the loop's clock; also bounds the opening.
            is_fresh: Only a connection that carried no exchange will do.

        Raises:
            UpstreamError: `overloaded` (too many wait, or waited too long), `upstream_refused`, `upstream_timeout`.
        """
        while True:
            connection = None if is_fresh else self.take()
            if connection is not None:
                return connection
            if is_fresh and self._is_full and self._idle:
                oldest, _ = self._idle.popitem(last=False)
                oldest.close(DropReason.IDLE_SURPLUS)
            if not self._is_full:
                self._connecting += 1
                return await self._connect(deadline)
            connection = await self._wait(deadline, is_fresh=is_fresh)
            if connection is None:
                return await self._connect(deadline)
            if connection.can_start():
                return connection
            # It broke between being granted and being used: its place is free again.
            connection.close(DropReason.STALE)

    @property
    def _is_full(self) -> bool:
        return len(self._open) + self._connecting >= self._limits.connections

    async def _connect(self, deadline: float) -> Connection:
        """Opens a connection in a place already counted in `_connecting`."""
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                connection = await self._dialer.dial(self._make_connection)
        except TimeoutError as exc:
            detail = "no connection in time" if timeout.expired() else "the network gave up connecting"
            raise self._error(ErrorCode.UPSTREAM_TIMEOUT, Phase.CONNECT, detail) from exc
        except OSError as exc:
            raise self._refusal(exc) from exc
        else:
            return self._adopt(connection)
        finally:
            self._connecting -= 1
            self._offer_places()

    def _adopt(self, connection: Connection) -> Connection:
        if self._is_closed:
            connection.shut()
        if connection.is_closed:
            raise self._error(ErrorCode.UPSTREAM_RESET, Phase.CONNECT, "closed as soon as it was open")
        self._open.add(connection)
        return connection

    def _make_connection(self) -> Connection:
        return Connection(self, self.name, self._limits, self._loop)

    async def _wait(self, deadline: float, *, is_fresh: bool) -> _Grant:
        limits = self._limits
        if len(self._waiters) >= limits.waiting:
            raise self._error(ErrorCode.OVERLOADED, Phase.SELECT, f"{limits.waiting} exchanges wait already")
        grant: asyncio.Future[_Grant] = self._loop.create_future()
        self._waiters[grant] = is_fresh
        deadline = min(deadline, self._loop.time() + limits.waiting_s)
        timer = self._loop.call_at(deadline, self._give_up, grant)
        try:
            return await grant
        except asyncio.CancelledError:
            # Granted and cancelled in the same turn of the loop: the grant goes to the next.
            if grant.done() and not grant.cancelled() and grant.exception() is None:
                self._return_grant(grant.result())
            raise
        finally:
            timer.cancel()
            self._waiters.pop(grant, None)

    def _give_up(self, grant: asyncio.Future[_Grant]) -> None:
        if not grant.done():
            grant.set_exception(self._error(ErrorCode.OVERLOADED, Phase.SELECT, "no connection became free in time"))

    def _return_grant(self, grant: _Grant) -> None:
        if grant is None:
            self._connecting -= 1
            self._offer_places()
        else:
            self.take_back(grant)

    # -- getting one back: called by connections --------------------------------------------------------------------

    def take_back(self, connection: Connection) -> None:
        """The connection is free: for whoever waits longest, else to be kept for a while."""
        if connection.is_closed:
            return
        if self._waiters:
            grant, is_fresh = self._pop_waiter()
            if grant is not None and not is_fresh:
                grant.set_result(connection)
                return
            if grant is not None:
                # The place goes to it, not the connection.
                self._open.discard(connection)
                self._connecting += 1
                grant.set_result(None)
                connection.close(DropReason.IDLE_SURPLUS)
                return
        if self._is_retired:
            connection.close(DropReason.RETIRED)
        elif len(self._idle) >= self._limits.idle_connections:
            connection.close(DropReason.IDLE_SURPLUS)
        else:
            connection.idle_since = self._loop.time()
            self._idle[connection] = None
            if self._reaper is None:
                self._reaper = self._loop.call_later(self._limits.idle_timeout_s, self._reap)

    def forget(self, connection: Connection, reason: DropReason) -> None:
        """The connection is closed; its place is free."""
        self.drops[reason] += 1
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.discard(connection)
            self._offer_places()

    def _offer_places(self) -> None:
        while self._waiters and not self._is_full:
            grant, _ = self._pop_waiter()
            if grant is not None:
                self._connecting += 1
                grant.set_result(None)

    def _pop_waiter(self) -> tuple[asyncio.Future[_Grant] | None, bool]:
        """The waiter that is first in line, or None when all gave up in this turn of the loop."""
        while self._waiters:
            grant, is_fresh = self._waiters.popitem(last=False)
            if not grant.done():
                return grant, is_fresh
        return None, False

    # -- ageing and ending ------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        self._reaper = None
        now = self._loop.time()
        expiring = _expired(self._idle, now - self._limits.idle_timeout_s)
        for connection in expiring:
            connection.close(DropReason.IDLE_TIMEOUT)
        if self._idle and not self._is_retired:
            oldest = next(iter(self._idle))
            self._reaper = self._loop.call_at(oldest.idle_since + self._limits.idle_timeout_s, self._reap)

    def retire(self) -> None:
        """Closes what is idle and, from now on, what becomes idle. Exchanges go on, also those that still wait."""
        self._is_retired = True
        self._dialer.retire()
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in tuple(self._idle):
            connection.close(DropReason.RETIRED)

    async def aclose(self) -> None:
        """Retires, and ends the exchanges that are running: they fail."""
        self._is_closed = True
        self.retire()
        for grant in tuple(self._waiters):
            if not grant.done():
                grant.set_exception(
                    self._error(ErrorCode.OVERLOADED, Phase.SELECT, "the client of this side was closed")
                )
        for connection in tuple(self._open):
            connection.shut()
        await self._dialer.aclose()

    # -- errors -----------------------------------------------------------------------------------------------------

    def _refusal(self, exc: OSError) -> UpstreamError:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL):
            # Ours, not the side's: counting it as the side's failure would take a healthy instance out.
            detail = f"this process cannot open a connection: {errno.errorcode[exc.errno]}"
            return self._error(ErrorCode.OVERLOADED, Phase.CONNECT, detail)
        return self._error(ErrorCode.UPSTREAM_REFUSED, Phase.CONNECT, f"cannot connect: {_describe(exc)}")

    def _error(self, code: ErrorCode, phase: Phase, detail: str) -> UpstreamError:
        return UpstreamError(code, upstream=self.name, phase=phase, detail=detail, sent=False)


def _expired(idle: OrderedDict[Connection, None], idle_since: float) -> list[Connection]:
    """The idle connections given back at `idle_since` or earlier; the dict is in that order."""
    expired: list[Connection] = []
    for connection in idle:
        if connection.idle_since > idle_since:
            break
        expired.append(connection)
    return expired


def _describe(exc: OSError) -> str:
    """Why connecting failed, in words that hold no address."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        # Its errno is OpenSSL's: 1 is not EPERM.
        return f"TLS failed: {exc.reason}"
    return errno.errorcode.get(exc.errno or 0, type(exc).__name__)
