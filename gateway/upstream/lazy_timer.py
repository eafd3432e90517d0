"""One timer that is moved often and fires seldom.

Owns a single `TimerHandle`. Moving the deadline further away, the ordinary case, is one assignment: the handle that is
already scheduled looks at the deadline when it fires and schedules itself again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class LazyTimer:
    """Calls back once the deadline set last has passed."""

    __slots__ = ("_at", "_callback", "_handle", "_handle_at", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """Made without a deadline.

        Args:
            loop: Whose clock the deadlines are on.
            callback: Called without arguments when one passes; it may set the next.
        """
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = inf
        self._at = inf

    def set(self, at: float) -> None:
        """Moves the deadline to `at`, in seconds of the loop's clock; infinity = none."""
        self._at = at
        if at < self._handle_at:
            if self._handle is not None:
                self._handle.cancel()
            self._schedule()

    def cancel(self) -> None:
        """Forgets the deadline and lets go of the loop."""
        self._at = inf
        self._handle_at = inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        self._handle_at = self._at
        self._handle = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._handle_at = inf
        if self._loop.time() >= self._at:
            self._at = inf
            self._callback()
        elif self._at < inf:
            self._schedule()
