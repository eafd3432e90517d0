"""Hard floors: what needs no statistics, no Redis and no other replica."""

from __future__ import annotations

from collections import deque
from typing import Final

CONSECUTIVE: Final = 10
WITHIN_S: Final = 30.0
SILENT_S: Final = 5.0


class ConsecutiveFailures:
    """Failures in a row of the kind that says that nobody is there: connect, TLS, timeout.

    By chance, at 1 % of errors, ten in a row come once in 1e20.
    """

    def __init__(self, limit: int = CONSECUTIVE, within_s: float = WITHIN_S) -> None:
        self._at: deque[float] = deque(maxlen=limit)
        self._limit = limit
        self._within_s = within_s

    @property
    def since(self) -> float | None:
        """When the first of those in a row was, or None."""
        return self._at[0] if self._at else None

    def succeeded(self) -> None:
        """An answer came."""
        if self._at:
            self._at.clear()

    def failed(self, now: float) -> bool:
        """Nobody was there; returns whether that was one too many."""
        self._at.append(now)
        return len(self._at) == self._limit and now - self._at[0] <= self._within_s


class Silence:
    """Requests are sent and nothing comes back."""

    def __init__(self, limit: int = CONSECUTIVE) -> None:
        self._limit = limit
        self._since: float | None = None

    def reset(self) -> None:
        """Nobody waits any more: new is out, or its stage has changed."""
        self._since = None

    def tick(self, waiting: int, completed: int, now: float, patience_s: float | None) -> bool:
        """Whether so many have waited for so long without a single answer.

        Args:
            waiting: Requests on their way.
            completed: Answers since the last tick.
            now: Seconds.
            patience_s: How long an answer may take; None: nobody knows, and silence says nothing.
        """
        if completed or waiting < self._limit or patience_s is None:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= max(SILENT_S, patience_s)
