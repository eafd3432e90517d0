"""The last failures and late answers of new, for the record of a trip: kinds, times and request ids, nothing else.

Only what fails or is late costs anything here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.core.detect.record import Seen

_KEPT: Final = 200
"""Of each kind and operation."""


class Recent:
    """What went wrong on new lately, by operation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Has seen nothing.

        Args:
            clock: Monotonic seconds.
        """
        self._clock = clock
        self._failed: dict[str, deque[Seen]] = {}
        self._slow: dict[str, deque[Seen]] = {}

    def failed(self, operation: str, kind: str, seconds: float, request_id: bytes) -> None:
        """A request failed.

        Args:
            operation: Its operation.
            kind: One of a closed set of words.
            seconds: How long it took.
            request_id: Its id.
        """
        _note(self._failed, operation, Seen(self._clock(), kind, seconds, request_id.decode("latin-1")))

    def slow(self, operation: str, seconds: float, request_id: bytes) -> None:
        """A request took longer than it may."""
        _note(self._slow, operation, Seen(self._clock(), "", seconds, request_id.decode("latin-1")))

    def failures(self, operation: str | None) -> list[Seen]:
        """Those of an operation, or of all; oldest first within each."""
        return _of(self._failed, operation)

    def late(self, operation: str | None) -> list[Seen]:
        """Likewise."""
        return _of(self._slow, operation)


def _note(kept: dict[str, deque[Seen]], operation: str, seen: Seen) -> None:
    known = kept.get(operation)
    if known is None:
        known = kept[operation] = deque(maxlen=_KEPT)
    known.append(seen)


def _of(kept: dict[str, deque[Seen]], operation: str | None) -> list[Seen]:
    if operation is not None:
        return list(kept.get(operation, ()))
    return [seen for known in kept.values() for seen in known]
