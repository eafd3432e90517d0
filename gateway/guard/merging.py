"""Adds up what workers report: cumulative counts, so that what is lost or said twice changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from gateway.core.detect.guard import Counted
from gateway.core.histogram import Histogram

Signals = Mapping[str, list[int]]
"""By operation the numbers of `Counted`, in its order; cumulative. Workers of another version may say fewer or more."""
Histograms = Mapping[str, Mapping[str, Mapping[str, int]]]
"""By operation and side; sparse and cumulative."""

_NONE: Final = [0] * len(fields(Counted))
BLIND_AFTER_S: Final = 2.0
_FRESH: Final = 8
"""Reports after which a worker has a past."""


@dataclass(slots=True)
class _Heard:
    """What was heard of a worker."""

    signals: Signals
    seq: int
    at: float


class Merge:
    """What all workers counted since the last look.

    A worker that has just begun counts from zero; one that was there before, or could not be heard for a while, from
    what it says first: its past is not news.
    """

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}
        self._has_begun = False

    def take(self, reports: Mapping[str, tuple[int, Signals]], now: float) -> dict[str, Counted]:
        """What is new in reports.

        Args:
            reports: By process: a number that grows, and what it counted.
            now: Monotonic seconds of this process; clocks of others are never compared.
        """
        total: dict[str, Counted] = {}
        for name, (seq, signals) in reports.items():
            before = self._heard.get(name)
            if before is None:
                base: Signals = {} if self._has_begun and seq <= _FRESH else signals
                self._heard[name] = _Heard(signals, seq, now)
            elif seq <= before.seq:
                continue
            else:
                base = before.signals
                before.signals, before.seq, before.at = signals, seq, now
            for operation, counts in signals.items():
                known = base.get(operation, _NONE)
                fresh = Counted(*(max(0, after - then) for after, then, _ in zip(counts, known, _NONE, strict=False)))
                total[operation] = total.get(operation, Counted()) + fresh
        self._has_begun = True
        return total

    @property
    def known(self) -> int:
        """How many workers have been heard and are not forgotten."""
        return len(self._heard)

    def blind(self, now: float) -> int:
        """How many workers have said nothing for too long."""
        return sum(now - heard.at > BLIND_AFTER_S for heard in self._heard.values())

    def forget(self, now: float, after_s: float = 120.0) -> list[str]:
        """Forgets workers that are gone; returns their names."""
        gone = [name for name, heard in self._heard.items() if now - heard.at > after_s]
        for name in gone:
            del self._heard[name]
        return gone


def merge_histograms(reports: Mapping[str, Histograms]) -> dict[str, dict[str, Histogram]]:
    """The histograms of all workers, by operation and side."""
    merged: dict[str, dict[str, Histogram]] = {}
    for report in reports.values():
        for operation, sides in report.items():
            mine = merged.setdefault(operation, {})
            for side, sparse in sides.items():
                found = Histogram.from_sparse(sparse)
                mine[side] = mine[side] + found if side in mine else found
    return merged
