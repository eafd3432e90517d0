"""The hard floor: ten requests in a row that nobody answered take new out at once, on this worker alone."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.detect.floors import CONSECUTIVE, ConsecutiveFailures
from gateway.core.detect.record import Cause
from gateway.core.model import SCOPE_ALL
from gateway.ports import Clock


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

    def answered(self) -> None:
        """See `ports.Floor`."""
        self._failures.succeeded()

    def absent(self) -> None:
        """See `ports.Floor`."""
        if self._failures.failed(self._clock()):
            since = self._failures.since
            self._failures.succeeded()
            why = f"absence: {CONSECUTIVE} requests in a row could not reach new, or got no answer in time"
            self._trip(Cause(SCOPE_ALL, "absence", why, since=since))
