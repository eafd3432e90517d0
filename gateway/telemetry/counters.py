"""What one process counted since it began: plain integers, cheap to raise, flushed by a timer.

Implements `ports.Observer` and `ports.ShadowObserver`. What it gives away (`blob`) is cumulative and fit for JSON;
adding up blobs is the business of `ledger`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import Any, Final

from gateway.core.decide import Doubt
from gateway.core.histogram import bucket_of
from gateway.core.model import ErrorCode, Side
from gateway.core.outcome import Outcome
from gateway.ports import Clock
from gateway.telemetry.recent import Recent

UNMATCHED: Final = "(unmatched)"
"""Stands for the operation of requests that none matched; no operation can have this name."""
NO_SIDE: Final = "none"
"""Stands for the side of requests that no side was asked about."""

_TIMED: Final = frozenset({Outcome.OK, Outcome.CLIENT_ERROR, Outcome.FAILURE})
"""Outcomes that a side answered for: only these have a latency that says something about it."""


class Cell:
    """Counts of one operation on one side.

    Attributes:
        outcomes: By outcome.
        buckets: By bucket of core/histogram.py; sparse.
        seconds: Sum of all recorded durations.
        timed: Requests whose duration is known, or known to be above the limit.
        slow: Of them, above the limit.
    """

    __slots__ = ("buckets", "outcomes", "seconds", "slow", "timed")

    def __init__(self) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.buckets: dict[int, int] = {}
        self.seconds = 0.0
        self.timed = 0
        self.slow = 0

    def note(self, outcome: Outcome, seconds: float) -> None:
        """Counts a request."""
        self.outcomes[outcome] += 1
        if outcome in _TIMED:
            bucket = bucket_of(seconds)
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
            self.seconds += seconds

    def blob(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "outcomes": {outcome.value: count for outcome, count in self.outcomes.items() if count},
            "histogram": {str(bucket): count for bucket, count in self.buckets.items()},
            "sum_s": self.seconds,
        }


_NOTHING: Final = Cell()


class RequestCounters:
    """Counts of one process. Every method is called on its event loop.

    Attributes:
        limits: By operation: seconds above which an answer of new is too slow.
        drilled: The operation whose comparisons are a drill's: detectors see them, the figures do not.
        recent: The last of new's failures and late answers.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self.recent = Recent(clock)
        self._cells: dict[str, dict[Side | None, Cell]] = {}
        self._refused: Counter[ErrorCode] = Counter()
        self._doubts: Counter[Doubt] = Counter()
        self.limits: dict[str, float] = {}
        self.drilled: str | None = None
        self._rehearsed: dict[str, Counter[str]] = {}
        self._mirror: dict[str, Counter[str]] = {}
        self._compared: dict[str, Counter[str]] = {}
        self._copies: dict[str, dict[Side, Cell]] = {}
        self._saved: Counter[str] = Counter()
        self._forged = 0
        self._force_ignored = 0

    def answered(
        self,
        operation: str | None,
        side: Side | None,
        outcome: Outcome,
        seconds: float,
        *,
        is_late: bool = False,
        blamed: str | None = None,
        request_id: bytes = b"",
    ) -> None:
        """See `ports.Observer`."""
        name = operation or UNMATCHED
        cell = self._cell(name, side)
        cell.note(outcome, seconds)
        if side is not Side.NEW or outcome not in _TIMED:
            return
        if outcome is Outcome.FAILURE:
            self.recent.failed(name, blamed or outcome.value, seconds, request_id)
        if not is_late:
            cell.timed += 1
            if seconds > self.limits.get(name, inf):
                cell.slow += 1
                self.recent.slow(name, seconds, request_id)

    def saved(self, operation: str) -> None:
        """See `ports.Observer`."""
        self._saved[operation] += 1

    def _cell(self, operation: str, side: Side | None) -> Cell:
        sides = self._cells.get(operation)
        if sides is None:
            sides = self._cells[operation] = {Side.OLD: Cell(), Side.NEW: Cell(), None: Cell()}
        return sides[side]

    def late(self, operation: str) -> None:
        """See `ports.Observer`."""
        cell = self._cell(operation, Side.NEW)
        cell.timed += 1
        cell.slow += 1

    def signals(self) -> dict[str, list[int]]:
        """What detectors judge, by operation; cumulative. See `core.detect.guard.Counted` for the order."""
        found = {}
        for name in {*self._cells, *self._compared, *self._rehearsed}:
            sides = self._cells.get(name)
            cell = sides[Side.NEW] if sides is not None else _NOTHING
            old = sides[Side.OLD].outcomes if sides is not None else _NOTHING.outcomes
            outcomes = cell.outcomes
            errors = outcomes[Outcome.FAILURE]
            compared: Mapping[str, int] = self._compared.get(name, {})
            if name in self._rehearsed:
                compared = Counter(compared) + self._rehearsed[name]
            mismatches = compared.get("mismatch", 0)
            found[name] = [
                outcomes[Outcome.OK] + outcomes[Outcome.CLIENT_ERROR] + errors,
                errors,
                cell.timed,
                cell.slow,
                compared.get("match", 0) + mismatches,
                mismatches,
                old[Outcome.OK] + old[Outcome.CLIENT_ERROR] + old[Outcome.FAILURE],
                old[Outcome.FAILURE],
            ]
        return found

    def histograms(self) -> dict[str, dict[str, dict[str, int]]]:
        """Durations of both sides, by operation; sparse and cumulative."""
        return {
            name: {
                side.value: {str(bucket): count for bucket, count in sides[side].buckets.items()}
                for side in (Side.OLD, Side.NEW)
            }
            for name, sides in self._cells.items()
            if name != UNMATCHED
        }

    def refused(self, code: ErrorCode) -> None:
        """See `ports.Observer`."""
        self._refused[code] += 1

    def doubted(self, doubt: Doubt) -> None:
        """See `ports.Observer`."""
        self._doubts[doubt] += 1

    def forged(self, fields: int) -> None:
        """See `ports.Observer`."""
        self._forged += fields

    def force_ignored(self) -> None:
        """See `ports.Observer`."""
        self._force_ignored += 1

    def mirrored(self, operation: str, result: str) -> None:
        """See `ports.ShadowObserver`."""
        counts = self._mirror.get(operation)
        if counts is None:
            counts = self._mirror[operation] = Counter()
        counts[result] += 1

    def mirror_answered(self, operation: str, side: Side, outcome: Outcome, seconds: float) -> None:
        """See `ports.ShadowObserver`."""
        sides = self._copies.setdefault(operation, {Side.OLD: Cell(), Side.NEW: Cell()})
        sides[side].note(outcome, seconds)

    def compared(self, operation: str, result: str, count: int = 1) -> None:
        """See `ports.ShadowObserver`."""
        figures = self._rehearsed if operation == self.drilled else self._compared
        counts = figures.get(operation)
        if counts is None:
            counts = figures[operation] = Counter()
        counts[result] += count

    def blob(self) -> dict[str, Any]:
        """Everything counted so far, for JSON."""
        return {
            "operations": {
                name: {side.value if side else NO_SIDE: cell.blob() for side, cell in sides.items()}
                for name, sides in self._cells.items()
            },
            "refused": {code.value: count for code, count in self._refused.items()},
            "doubts": {doubt.value: count for doubt, count in self._doubts.items()},
            "mirror": {name: dict(counts) for name, counts in self._mirror.items()},
            "comparisons": {name: dict(counts) for name, counts in self._compared.items()},
            "copies": {
                name: {side.value: cell.blob() for side, cell in sides.items()} for name, sides in self._copies.items()
            },
            "saved": dict(self._saved),
            "forged": self._forged,
            "force_ignored": self._force_ignored,
        }
