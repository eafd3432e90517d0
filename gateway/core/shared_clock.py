"""One clock for many processes: that of Redis, read on by a monotonic clock of one's own. Pure.

Whatever the clocks of machines say, and whoever sets them meanwhile, all that ask the same Redis agree to within the
half of a round trip.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

_DRIFT: Final = 1e-4
"""By how much two clocks may come apart in a second; 100 ppm is a bad quartz."""


class SharedClock:
    """Tells the time that everybody tells."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Tells its own time until it has heard another.

        Args:
            monotonic: Seconds of this process.
        """
        self.monotonic = monotonic
        self._ahead = 0.0
        self._error = inf
        self._noted_at = 0.0

    def now(self) -> float:
        """Unix seconds, as Redis counts them."""
        return self.monotonic() + self._ahead

    def note(self, theirs: float, asked_at: float, answered_at: float) -> None:
        """Takes what Redis said; of several answers the quickest tells best.

        Args:
            theirs: Unix seconds.
            asked_at: Monotonic seconds.
            answered_at: Likewise.
        """
        error = (answered_at - asked_at) / 2
        if error <= self._error + _DRIFT * (answered_at - self._noted_at):
            self._ahead = theirs - (asked_at + answered_at) / 2
            self._error, self._noted_at = error, answered_at
