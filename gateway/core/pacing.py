"""How many copies may be on their way to a side at once: as many as it answers without becoming slower.

Additive increase, multiplicative decrease (Chiu, Jain 1989), moved by latency against the best that was seen, as in the
gradient limit of Netflix's concurrency-limits:

answered, as fast as ever        -> one more for each round; at first, until it was slow once, doubled each round
slower than twice the best       -> less, the more the slower, at most halved
said that it is too much, absent -> halved
no answer for as long            -> as if it had come now: a hang is seen before its deadline

The best is the least of a moving average for each operation. It rises by itself, so that a side that has become slower
for good is not starved for ever.
"""

from __future__ import annotations

from math import exp
from typing import Final

_START: Final = 8
_TOLERANCE: Final = 2.0
"""A side is slow when it takes so many times as long as it did at its best."""
_FLOOR_S: Final = 0.02
"""Faster than this is all the same."""
_WEIGHT: Final = 0.2
"""Of an answer in the moving average."""
_FORGETS_S: Final = 600.0
"""In so many seconds, the best grows by a factor of e."""
_EVERY_S: Final = 0.25
"""Decreases are so far apart: one slow moment delays many at once."""


class _Pulse:
    """How long an operation takes."""

    __slots__ = ("at", "best_s", "recent_s")

    def __init__(self, seconds: float, at: float) -> None:
        self.recent_s = self.best_s = seconds
        self.at = at

    def note(self, seconds: float, now: float) -> None:
        self.recent_s += (seconds - self.recent_s) * _WEIGHT
        self.best_s = min(self.best_s * exp((now - self.at) / _FORGETS_S), self.recent_s)
        self.at = now

    def strain(self, seconds: float) -> float:
        return max(seconds, _FLOOR_S) / max(self.best_s, _FLOOR_S)


class Pace:
    """The pace of copies to one side. Times are seconds of any one monotonic clock.

    Attributes:
        most: Copies at once, at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._limit = float(min(_START, most))
        self._is_starting = True
        self._pulses: dict[str, _Pulse] = {}
        self._slowed_at = float("-inf")

    @property
    def limit(self) -> int:
        """Copies that may be on their way at once, now."""
        return max(1, int(self._limit))

    def answered(self, operation: str, seconds: float, running: int, now: float) -> None:
        """A copy was answered.

        Args:
            operation: Its name.
            seconds: How long that took.
            running: Copies that were on their way, itself included.
            now: The time.
        """
        pulse = self._pulses.get(operation)
        if pulse is None:
            pulse = self._pulses[operation] = _Pulse(seconds, now)
        else:
            pulse.note(seconds, now)
        strain = pulse.strain(pulse.recent_s)
        if strain > _TOLERANCE:
            self._slow_down(max(0.5, _TOLERANCE / strain), now)
        elif running * 2 >= self._limit:
            # What is not made use of says nothing about what more would do.
            self._limit = min(self.most, self._limit + (1.0 if self._is_starting else 1 / self._limit))

    def refused(self, now: float) -> None:
        """A copy was turned away, or nobody was there, or not in time."""
        self._slow_down(0.5, now)

    def waited(self, operation: str, seconds: float, now: float) -> None:
        """Half of the copies on their way have had no answer for so long at least.

        Args:
            operation: Of the one that waits for so long.
            seconds: Since it was sent.
            now: The time.
        """
        pulse = self._pulses.get(operation)
        usual_s = max(pulse.best_s if pulse is not None else 0.0, _FLOOR_S)
        # One answer more is slow by chance; half of them are not. Twice the tolerance all the same: this one knows
        # nothing of what an average would say.
        if seconds > max(2 * _TOLERANCE * usual_s, _EVERY_S):
            self._slow_down(0.5, now)

    def _slow_down(self, factor: float, now: float) -> None:
        self._is_starting = False
        if now - self._slowed_at >= _EVERY_S:
            self._slowed_at = now
            self._limit = max(1.0, self._limit * factor)
