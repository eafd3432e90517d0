"""What all client connections of one worker share: limits, date, drain, the sweep that ends overdue connections.

One timer looks at all connections twice a second, so that a request arms no timers of its own.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from itertools import islice
from typing import TYPE_CHECKING, Final

import uvicorn

from gateway.core.model import ErrorCode
from gateway.edge.limits import EdgeLimits

if TYPE_CHECKING:
    from gateway.edge.express import ExpressLane
    from gateway.edge.protocol import EdgeProtocol

SWEEP_INTERVAL_S: Final = 0.5
_EVICTION_LOOKS: Final = 256


class Listener:
    """State shared by the connections of one worker.

    Attributes:
        limits: The bounds in force.
        date: Current value of `Date`.
        draining: Answers end their connection; idle connections end at `linger_until`.
        connections: Every open connection, the oldest first.
        refused: Called with the code of each request that the protocol answers itself.
        express: Carries in callbacks, or None: then the application carries all.
        is_express_on: Whether it carries bounded exchanges, besides tunnels.
    """

    def __init__(
        self, limits: EdgeLimits, refused: Callable[[ErrorCode], None], express: ExpressLane | None = None
    ) -> None:
        self.limits = limits
        self.express = express
        self.is_express_on = True
        self.refused = refused
        self.date = _now_as_date()
        self.draining = False
        self.linger_until = 0.0
        self.connections: dict[EdgeProtocol, None] = {}
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, connection: EdgeProtocol, address: str) -> bool:
        """Takes a new connection in, if need be in place of the oldest one that carries no request.

        Args:
            connection: The new one.
            address: Of its client.

        Returns:
            Whether it may stay; then `forget` must be called at its end.
        """
        limits = self.limits
        if limits.connections_per_address and self._by_address[address] >= limits.connections_per_address:
            return False
        if len(self.connections) >= limits.connections:
            # A few looks, not a search: where the oldest are all at work, so is nearly everybody.
            oldest = islice(self.connections, _EVICTION_LOOKS)
            idle = next((held for held in oldest if not held.is_busy), None)
            if idle is None:
                return False
            idle.evict()
        self.connections[connection] = None
        self._by_address[address] += 1
        return True

    def forget(self, connection: EdgeProtocol, address: str) -> None:
        """A connection that was admitted has ended. Idempotent."""
        if connection in self.connections:
            del self.connections[connection]
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def start(self) -> None:
        """Starts the sweep on the running loop."""
        self._sweep(asyncio.get_running_loop())

    def stop(self) -> None:
        """Stops the sweep."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drain(self, linger_s: float) -> None:
        """Lets every connection end with its next answer; idle ones are closed after `linger_s`.

        A client that sends a request on a kept-alive connection just as it is closed sees a failed request, so with a
        successor already accepting, idle connections are given time to ask once more.
        """
        self.draining = True
        now = asyncio.get_running_loop().time()
        self.linger_until = now + linger_s
        for connection in tuple(self.connections):
            connection.drain(now)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        # First: whatever one connection does, the next sweep comes.
        self._timer = loop.call_later(SWEEP_INTERVAL_S, self._sweep, loop)
        self.date = _now_as_date()
        now = loop.time()
        for connection in tuple(self.connections):
            connection.expire_if_overdue(now)


class EdgeConfig(uvicorn.Config):
    """uvicorn's configuration, carrying the listener to each connection."""

    def __init__(
        self, app: object, listener: Listener, http: type[asyncio.Protocol], tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(
            app,  # type: ignore[arg-type]  # an ASGI callable of our own, typed loosely
            http=http,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=2048,
        )
        self.listener = listener
        self.tls = tls


def _now_as_date() -> bytes:
    return formatdate(time.time(), usegmt=True).encode()
