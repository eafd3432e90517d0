"""Adds up what workers report: cumulative counts, so that what is lost or said twice changes nothing.

What was added up stays, whoever leaves: sums never shrink.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, lt, sub
from typing import Final

from gateway.core.detect.guard import FIELDS
from gateway.core.detect.reports import Report
from gateway.core.histogram import BUCKETS, Histogram

BLIND_AFTER_S: Final = 2.0
_FRESH: Final = 8
"""Reports after which a worker has a past."""
_WIDTH: Final = len(FIELDS)
_NEVER: Final = float("-inf")

Fresh = dict[str, list[int]]
"""By operation: what is new since the last look, the numbers of `Counted`."""


@dataclass(slots=True)
class _Worker:
    """What was heard of a process; None: nothing that could be read."""

    report: Report | None
    at: float


class Merge:
    """What workers counted since the last look.

    A worker that has just begun counts from zero; one that was there before, or could not be heard for a while, from
    what it says first: its past is not news.
    """

    def __init__(self, *, is_own: bool = False) -> None:
        """Has heard nothing.

        Args:
            is_own: It adds up what this process alone counts, which began with it.
        """
        self._heard: dict[str, _Worker] = {}
        self._has_begun = is_own

    def take(
        self, reports: Mapping[str, Report], now: float, into: Fresh | None = None, unreadable: Iterable[str] = ()
    ) -> Fresh:
        """What is new in reports.

        Args:
            reports: By process.
            now: Monotonic seconds of this process; clocks of others are never compared.
            into: Is added to.
            unreadable: Processes that report what cannot be read.
        """
        total: Fresh = {} if into is None else into
        for name, report in reports.items():
            before = self._heard.get(name)
            if before is None or before.report is None:
                is_new = self._has_begun and report.seq <= _FRESH
                base = {} if is_new else report.signals
                self._heard[name] = _Worker(report, now)
            elif report.seq <= before.report.seq:
                continue
            else:
                base = before.report.signals
                before.report, before.at = report, now
            for operation, counts in report.signals.items():
                known = base.get(operation)
                if known != counts:
                    _add(total, operation, counts, known or ())
        for name in unreadable:
            if name not in self._heard:
                self._heard[name] = _Worker(None, now)
        for name in self._heard.keys() - reports.keys() - set(unreadable):
            # It has left and said so, or Redis has lost all there was: then what it says next is its past.
            del self._heard[name]
        self._has_begun = True
        return total

    def hanging(self, operation: str, now: float) -> tuple[int, int]:
        """How many requests hang, of new and of old, by what was heard lately."""
        new = old = 0
        for worker in self._heard.values():
            if worker.report is None or now - worker.at > BLIND_AFTER_S:
                continue
            counts = worker.report.hanging.get(operation)
            if counts is not None and len(counts) > 1:
                new += counts[0]
                old += counts[1]
        return new, old

    @property
    def processes(self) -> Collection[str]:
        """Who was heard and is not forgotten."""
        return self._heard.keys()

    @property
    def known(self) -> int:
        """How many workers there are; of one that was started again, its last process counts."""
        return len(self._latest())

    def blind(self, now: float) -> int:
        """How many of them have said nothing, or nothing that could be read, for too long."""
        return sum(now - at > BLIND_AFTER_S for at in self._latest().values())

    def _latest(self) -> dict[str, float]:
        latest: dict[str, float] = {}
        for process, worker in self._heard.items():
            name = process.rpartition(":")[0] or process
            latest[name] = max(latest.get(name, _NEVER), worker.at)
        return latest

    def forget(self, now: float, after_s: float = 120.0) -> list[str]:
        """Forgets workers that are gone; returns their names."""
        gone = [name for name, worker in self._heard.items() if now - worker.at > after_s]
        for name in gone:
            del self._heard[name]
        return gone


def _add(total: Fresh, operation: str, counts: Sequence[int], known: Sequence[int]) -> None:
    mine = total.get(operation)
    if mine is None:
        mine = total[operation] = [0] * _WIDTH
    if len(counts) != _WIDTH or len(known) != _WIDTH:
        # It begins, or another version says fewer or more.
        counts, known = _widened(counts), _widened(known)
    if True in map(lt, counts, known):
        # A process never counts down; whoever does it anyway takes nothing away from the others.
        counts = list(map(max, counts, known))
    mine[:] = map(add, mine, map(sub, counts, known))


def _widened(counts: Sequence[int]) -> list[int]:
    return [*counts[:_WIDTH], *[0] * (_WIDTH - len(counts))]


class Durations:
    """The durations of an operation on all workers, by where they were measured; since this process began."""

    def __init__(self) -> None:
        self.new = Histogram()
        self.old = Histogram()
        self.copied = Histogram()
        self.rehearsed = Histogram()
        self._of = {"new": self.new, "old": self.old, "copied": self.copied, "rehearsed": self.rehearsed}
        self._said: dict[str, dict[str, Sequence[int]]] = {}

    def take(self, process: str, sources: Mapping[str, Sequence[int]], *, is_own: bool = False) -> None:
        """Adds what is new.

        Args:
            process: Who says it.
            sources: One operation of `reports.Histograms`.
            is_own: It counts from zero; what another one says first is its past.
        """
        said = self._said.get(process)
        is_past = said is None and not is_own
        if said is None:
            said = self._said[process] = {}
        for source, pairs in sources.items():
            total = self._of.get(source)
            if total is None:
                continue
            before = said.get(source, ())
            said[source] = pairs
            if not is_past:
                for bucket, fresh in _changes(before, pairs):
                    if bucket < BUCKETS:
                        total.counts[bucket] += fresh

    def keep(self, processes: Collection[str]) -> None:
        """All others are gone; what they counted stays."""
        for process in self._said.keys() - set(processes):
            del self._said[process]


def _changes(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """By how much counts have grown, by bucket."""
    known = len(before)
    if before[::2] == after[:known:2]:
        # Buckets keep their places, new ones come behind.
        grown = [(at, n - m) for at, n, m in zip(after[::2], after[1::2], before[1::2], strict=False) if n > m]
        return grown + list(zip(after[known::2], after[known + 1 :: 2], strict=True))
    counts = dict(zip(before[::2], before[1::2], strict=True))
    return [(at, n - counts.get(at, 0)) for at, n in zip(after[::2], after[1::2], strict=True) if n > counts.get(at, 0)]
