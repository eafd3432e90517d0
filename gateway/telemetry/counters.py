"""What one process counted since it began: plain integers, cheap to raise, flushed by a timer.

Implements `ports.Observer` and `ports.ShadowObserver`. What it gives away (`blob`) is cumulative and fit for JSON;
adding up blobs is the business of `ledger`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import inf
from time import monotonic, time
from typing import Any, Final

from gateway.core.compare.tallies import Tallies
from gateway.core.decide import Doubt
from gateway.core.histogram import bucket_of
from gateway.core.model import ErrorCode, Side
from gateway.core.outcome import Outcome
from gateway.ports import Clock
from gateway.telemetry.comparisons import Comparisons
from gateway.telemetry.recent import Recent

UNMATCHED: Final = "(unmatched)"
"""Stands for the operation of requests that none matched; no operation can have this name."""
NO_SIDE: Final = "none"
"""Stands for the side of requests that no side was asked about."""

_TIMED: Final = frozenset({Outcome.OK, Outcome.CLIENT_ERROR, Outcome.FAILURE})
"""Outcomes that a side answered for: only these have a latency that says something about it."""


_BETWEEN: Final = frozenset({"suspected", "settled"})
"""Results of comparisons that are not the last word."""


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


def _pairs(buckets: Mapping[int, int]) -> list[int]:
    return [number for pair in buckets.items() for number in pair]


class RequestCounters:
    """Counts of one process. Every method is called on its event loop.

    Attributes:
        limits: By operation: seconds above which an answer of new is too slow.
        recent: The last of new's failures and late answers.
        agreement: What came of comparisons in the last 24 hours.
    """

    def __init__(self, clock: Clock = monotonic, wall: Clock = time) -> None:
        self.recent = Recent(clock)
        self.agreement = Tallies()
        self._wall = wall
        self._cells: dict[str, dict[Side | None, Cell]] = {}
        self._refused: Counter[ErrorCode] = Counter()
        self._doubts: Counter[Doubt] = Counter()
        self.limits: dict[str, float] = {}
        self._mirror: dict[str, Counter[str]] = {}
        self._compared = Comparisons()
        self._copies: dict[str, dict[Side, Cell]] = {}
        self._rehearsals: dict[str, Cell] = {}
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
        is_rehearsal: bool = False,
    ) -> None:
        """See `ports.Observer`."""
        name = operation or UNMATCHED
        cell = self._cell(name, side)
        cell.note(outcome, seconds)
        if is_rehearsal and side is Side.OLD:
            self._rehearsals.setdefault(name, Cell()).note(outcome, seconds)
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
        for name in {*self._cells, *self._compared.real, *self._compared.rehearsed, *self._copies}:
            sides = self._cells.get(name)
            cell = sides[Side.NEW] if sides is not None else _NOTHING
            old = sides[Side.OLD].outcomes if sides is not None else _NOTHING.outcomes
            outcomes = cell.outcomes
            errors = outcomes[Outcome.FAILURE]
            compared = self._compared.seen(name)
            mismatches = compared.get("mismatch", 0)
            copies = self._copies.get(name)
            copied = copies[Side.NEW].outcomes if copies is not None else _NOTHING.outcomes
            found[name] = [
                outcomes[Outcome.OK] + outcomes[Outcome.CLIENT_ERROR] + errors,
                errors,
                cell.timed,
                cell.slow,
                compared.get("match", 0) + mismatches,
                mismatches,
                old[Outcome.OK] + old[Outcome.CLIENT_ERROR] + old[Outcome.FAILURE],
                old[Outcome.FAILURE],
                copied[Outcome.OK] + copied[Outcome.CLIENT_ERROR] + copied[Outcome.FAILURE],
                copied[Outcome.FAILURE],
            ]
        return found

    def histograms(self, operations: Iterable[str]) -> dict[str, dict[str, list[int]]]:
        """Durations of operations by where they were measured; see `core.detect.reports.Histograms`."""
        found = {}
        for name in operations:
            sides, copies = self._cells.get(name), self._copies.get(name)
            measured: dict[str, Cell] = {}
            if sides is not None:
                measured = {"new": sides[Side.NEW], "old": sides[Side.OLD]}
            if copies is not None:
                measured["copied"] = copies[Side.OLD]
            if name in self._rehearsals:
                measured["rehearsed"] = self._rehearsals[name]
            pairs = {source: _pairs(cell.buckets) for source, cell in measured.items() if cell.buckets}
            if pairs:
                found[name] = pairs
        return found

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

    def compared(self, operation: str, result: str, count: int = 1, *, is_rehearsed: bool = False) -> None:
        """See `ports.ShadowObserver`."""
        real = self._compared.note(operation, result, count, is_rehearsed=is_rehearsed)
        if real and result not in _BETWEEN:
            self.agreement.note(operation, result, self._wall(), real)

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
            "comparisons": {name: dict(counts) for name, counts in self._compared.real.items()},
            "rehearsed": {name: dict(counts) for name, counts in self._compared.rehearsed.items()},
            "agreement": self.agreement.blob(),
            "copies": {
                name: {side.value: cell.blob() for side, cell in sides.items()} for name, sides in self._copies.items()
            },
            "saved": dict(self._saved),
            "forged": self._forged,
            "force_ignored": self._force_ignored,
        }
