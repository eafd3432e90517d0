"""The hard floor: ten requests in a row that nobody answered take new out at once, on this worker alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.detect.floors import CONSECUTIVE, WITHIN_S, ConsecutiveFailures
from gateway.core.detect.record import Cause
from gateway.core.model import SCOPE_ALL
from gateway.ports import Clock

_NEVER: Final = float("-inf")
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
        self._tripped_at = self._lost_at = _NEVER

    def answered(self) -> None:
        """See `ports.Floor`."""
        self._failures.succeeded()
        self._lost_at = _NEVER

    def absent(self) -> None:
        """See `ports.Floor`."""
        self._lost_at = self._clock()
        self._failed(self._lost_at)

    def unwell(self) -> None:
        """Health checks have failed for another second, on every instance of new.

        They count as requests do, once one was lost as well and none was answered since: an operation that is rarely
        asked would wait for ten. Alone they take nothing out: a check may ask for what is not there.
        """
        now = self._clock()
        if now - self._lost_at <= WITHIN_S:
            self._failed(now)

    def _failed(self, now: float) -> None:
        if self._failures.failed(now):
            since = self._failures.since
            self._failures.succeeded()
            if now - self._tripped_at < _AGAIN_S:
                # In `complete` nothing is taken out, and requests go on.
                return
            self._tripped_at = now
            why = f"absence: {CONSECUTIVE} times in a row new could not be reached, or gave no answer in time"
            self._trip(Cause(SCOPE_ALL, "absence", why, since=since))
