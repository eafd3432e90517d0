"""The hard floor: ten requests in a row that nobody answered take new out at once, on this worker alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.detect.floors import CONSECUTIVE, ConsecutiveFailures
from gateway.core.detect.record import Cause
from gateway.core.model import SCOPE_ALL
from gateway.ports import Clock

_AGAIN_S: Final = 1.0
"""Sooner it is not said again."""


class AbsenceFloor:
    """Implements `ports.Floor`."""

    def __init__(self, clock: Clock, trip: Callable[[Cause], None]) -> None:
        """Nothing has failed yet.

        Args:
            clock: Monotonic seconds.
            trip: Takes new out.
        """
        self._clock = clock
        self._trip = trip
        self._failures = ConsecutiveFailures()
        self._tripped_at = float("-inf")

    def answered(self) -> None:
        """See `ports.Floor`."""
        self._failures.succeeded()

    def absent(self) -> None:
        """See `ports.Floor`."""
        now = self._clock()
        if self._failures.failed(now):
            self._failures.succeeded()
            if now - self._tripped_at < _AGAIN_S:
                # In `complete` nothing is taken out, and requests go on.
                return
            self._tripped_at = now
            why = f"absence: {CONSECUTIVE} requests in a row could not reach new, or got no answer in time"
            self._trip(Cause(SCOPE_ALL, "absence", why))
