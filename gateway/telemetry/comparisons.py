"""Comparisons by operation and result: those of clients' reads, and those that a drill has made differ.

A pair that differs is settled seconds later, when a drill may have begun or ended; what it comes to counts where the
suspicion did.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

_SUSPECTED: Final = "suspected"
_SETTLED: Final = "settled"


class Comparisons:
    """Counts of one process.

    Attributes:
        real: The figures, by operation.
        rehearsed: What drills have made; detectors see it, the figures do not.
    """

    def __init__(self) -> None:
        self.real: dict[str, Counter[str]] = {}
        self.rehearsed: dict[str, Counter[str]] = {}
        # Whether each suspicion that is not settled was a drill's, oldest first: they are settled in about this order.
        self._open: dict[str, deque[bool]] = {}
        self._settled: dict[str, tuple[int, int]] = {}

    def note(self, operation: str, result: str, count: int = 1, *, is_rehearsed: bool = False) -> int:
        """Counts pairs that were judged. What suspicions come to is noted right after they were settled.

        Returns:
            How many of them are no drill's.
        """
        if result == _SETTLED:
            split = self._settled[operation] = self._close(operation, count, is_rehearsed=is_rehearsed)
        elif result == _SUSPECTED:
            self._open.setdefault(operation, deque()).extend([is_rehearsed] * count)
            split = (0, count) if is_rehearsed else (count, 0)
        else:
            split = self._settled.pop(operation, (0, count) if is_rehearsed else (count, 0))
        for figures, share in zip((self.real, self.rehearsed), split, strict=True):
            if share:
                figures.setdefault(operation, Counter())[result] += share
        return split[0]

    def _close(self, operation: str, count: int, *, is_rehearsed: bool) -> tuple[int, int]:
        """How many of the suspicions that are settled now were real, and how many a drill's."""
        waiting = self._open.get(operation, deque())
        closed = [waiting.popleft() if waiting else is_rehearsed for _ in range(count)]
        return count - sum(closed), sum(closed)

    def seen(self, operation: str) -> Mapping[str, int]:
        """All together, as detectors see it."""
        return self.real.get(operation, Counter()) + self.rehearsed.get(operation, Counter())
