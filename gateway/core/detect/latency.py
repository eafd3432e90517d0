"""How slow is too slow: a limit from what the baseline does now, and a second look at the time in question.

"P95 of new is above twice P95 of old" is the same as "more than 5 % of new's answers take longer than twice old's P95":
a rate, counted exactly. The limit carries the histogram's error of 2 %, the count none.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, inf, sqrt
from typing import Final

from gateway.core.histogram import BUCKETS, Histogram, bucket_of, value_of

_RECENT_S: Final = 300.0
_LONGEST_S: Final = 1800.0
_CHUNK_S: Final = 60.0
_ENOUGH: Final = 2000
_LEAST: Final = 100
_CONCURRENT: Final = 20
_ANSWERING: Final = 5
"""Answers of old that tell that it answers, where new does not."""
_PRESENT: Final = 10
"""Answers in five minutes from which on old has traffic to wait for; fewer are no baseline within ten minutes."""
_HOURS: Final = 168
_SURE: Final = 3.0
_SHARE: Final = 0.95
FLOOR_S: Final = 0.010
"""Below it nothing is slow: 3 ms instead of 1 ms is no incident."""


class Source(StrEnum):
    """Where the limit comes from."""

    SERVED = "served"
    """What old answers to clients."""
    COPIED = "copied"
    """What old answers to mirrored reads, where it answers no client."""
    REFERENCE = "reference"
    """What old did at this hour of the week, when it still had traffic."""
    KEPT = "kept"
    """What old did last."""


class _Rolling:
    """The durations of the last five minutes, and in coarser steps of thirty."""

    def __init__(self) -> None:
        self._last = [0] * BUCKETS
        self._sum = [0] * BUCKETS
        self.total = 0
        self._fine: deque[tuple[float, array[int]]] = deque()
        self._coarse: deque[tuple[float, array[int]]] = deque()

    def note(self, cumulative: Histogram, now: float) -> None:
        """Takes the histogram since the beginning."""
        fresh = array("Q")
        for bucket, (after, before) in enumerate(zip(cumulative.counts, self._last, strict=True)):
            if after > before:
                fresh.extend((bucket, after - before))
        if fresh:
            self._last = list(cumulative.counts)
            self._fine.append((now, fresh))
            self._add(fresh, 1)
        leaving = []
        while self._fine and now - self._fine[0][0] >= _RECENT_S:
            leaving.append(self._fine.popleft())
        for at, old in leaving:
            self._add(old, -1)
            if self._coarse and at - self._coarse[-1][0] < _CHUNK_S:
                old = _packed(_counts_of((self._coarse[-1][1], old)))
                at = self._coarse.pop()[0]
            self._coarse.append((at, old))
        while self._coarse and now - self._coarse[0][0] >= _LONGEST_S:
            self._coarse.popleft()

    def _add(self, packed: array[int], sign: int) -> None:
        for bucket, count in zip(packed[::2], packed[1::2], strict=True):
            self._sum[bucket] += sign * count
            self.total += sign * count

    def recent(self) -> Histogram:
        """Of the last five minutes; of up to thirty where that is too little."""
        if self.total >= _ENOUGH or not self._coarse:
            return Histogram(self._sum)
        total, chosen = self.total, []
        for _, packed in reversed(self._coarse):
            chosen.append(packed)
            total += sum(packed[1::2])
            if total >= _ENOUGH:
                break
        return Histogram(self._sum) + Histogram(_counts_of(chosen))


def _counts_of(packed: Iterable[array[int]]) -> list[int]:
    counts = [0] * BUCKETS
    for pairs in packed:
        for bucket, count in zip(pairs[::2], pairs[1::2], strict=True):
            counts[bucket] += count
    return counts


def _packed(counts: list[int]) -> array[int]:
    return array("Q", (number for bucket, count in enumerate(counts) if count for number in (bucket, count)))


class Baseline:
    """What the baseline side did lately, from cumulative histograms.

    Attributes:
        p95_s: Of old; None while too little is known. Kept when it falls silent.
        source: Where that comes from; None while there is none.
    """

    def __init__(self, ratio: float = 2.0, floor_s: float = FLOOR_S) -> None:
        self._ratio = ratio
        self._floor_s = floor_s
        self._served, self._copied = _Rolling(), _Rolling()
        self.p95_s: float | None = None
        self.source: Source | None = None

    @property
    def limit_s(self) -> float | None:
        """Longer is too slow; None while too little is known."""
        return None if self.p95_s is None else max(self._ratio * self.p95_s, self._floor_s)

    @property
    def is_present(self) -> bool:
        """Whether old answers often enough to be asked what it does at the same time."""
        return (self._copied if self.source is Source.COPIED else self._served).total >= _PRESENT

    def note(self, served: Histogram, now: float, copied: Histogram | None = None) -> None:
        """Takes the histograms since the beginning. Call it every few seconds.

        Args:
            served: What old answered to clients.
            now: Seconds.
            copied: What it answered to copies of reads.
        """
        self._served.note(served, now)
        if copied is not None:
            self._copied.note(copied, now)
        for source, rolling in ((Source.SERVED, self._served), (Source.COPIED, self._copied)):
            recent = rolling.recent()
            if recent.total >= _LEAST:
                self.p95_s, self.source = recent.quantile(_SHARE), source
                return
        if self.source in (Source.SERVED, Source.COPIED):
            self.source = Source.KEPT

    def refer(self, p95_s: float) -> None:
        """Takes what old did at this hour of another week, where it does nothing now."""
        if self.source not in (Source.SERVED, Source.COPIED):
            self.p95_s, self.source = p95_s, Source.REFERENCE


def hour_of_week(unix_s: float) -> int:
    """0-167, of a week that begins anywhere."""
    return int(unix_s // 3600) % _HOURS


def reference_p95_s(known: Mapping[int, float], hour: int) -> float | None:
    """What old's P95 was at an hour of the week; else at that hour of other days, else at any: the longest of them."""
    exact = known.get(hour)
    if exact is not None:
        return exact
    alike = [p95_s for at, p95_s in known.items() if at % 24 == hour % 24]
    return max(alike or known.values(), default=None)


@dataclass(frozen=True, slots=True)
class Concurrent:
    """What both sides did during an excursion.

    Attributes:
        new: Of new: requests that ended.
        old: Of the baseline.
        new_hanging: Requests to new that still wait, and are late.
        old_hanging: Likewise, of the baseline.
        has_baseline: Whether the baseline has traffic, so that it is worth waiting for what it says.
    """

    new: Histogram
    old: Histogram
    new_hanging: int = 0
    old_hanging: int = 0
    has_baseline: bool = False


@dataclass(frozen=True, slots=True)
class _Slow:
    n: int
    slow: int

    @classmethod
    def of(cls, ended: Histogram, hanging: int, limit_s: float) -> _Slow:
        return cls(ended.total + hanging, sum(ended.counts[bucket_of(limit_s) + 1 :]) + hanging)


def is_confirmed(seen: Concurrent, ratio: float, limit_s: float) -> bool | None:
    """Whether new was slower than the baseline at the same time; None: the baseline says too little to tell.

    A slowdown of both sides is nobody's fault. What hangs counts on both sides alike: as longer than anything.

    Args:
        seen: Both sides, since the excursion began.
        ratio: New's P95 may be so many times old's.
        limit_s: What was too slow when the excursion began: one limit for all that is counted here.
    """
    new, old = _Slow.of(seen.new, seen.new_hanging, limit_s), _Slow.of(seen.old, seen.old_hanging, limit_s)
    if not old.n and not seen.has_baseline:
        # No baseline at all: the limit is all there is.
        return True
    is_hang = 2 * seen.new_hanging > new.slow
    if old.n < (_ANSWERING if is_hang else _CONCURRENT) or not new.n:
        return None
    p95_new, p95_old = _p95_s(seen.new, seen.new_hanging), _p95_s(seen.old, seen.old_hanging)
    if p95_old == inf or p95_new <= ratio * p95_old:
        return False
    return _sureness([(new, old)]) >= _SURE


def is_confirmed_together(seen: Iterable[tuple[Concurrent, float]], ratio: float) -> bool | None:
    """As `is_confirmed`, over several operations, each held against its own limit.

    Shares of slow answers are compared within each operation and then added up (Mantel, Haenszel 1959), so that
    another mix of operations on either side is no slowness; durations in terms of each operation's limit.

    Args:
        seen: Of each operation, with its limit.
        ratio: New's P95 may be so many times old's.
    """
    pairs, new_all, old_all, new_hanging, old_hanging, has_baseline = [], Histogram(), Histogram(), 0, 0, False
    for each, limit_s in seen:
        pairs.append((_Slow.of(each.new, each.new_hanging, limit_s), _Slow.of(each.old, each.old_hanging, limit_s)))
        has_baseline |= each.has_baseline
        if not pairs[-1][1].n:
            continue
        _add_relative(new_all, each.new, limit_s)
        _add_relative(old_all, each.old, limit_s)
        new_hanging += each.new_hanging
        old_hanging += each.old_hanging
    if not sum(old.n for _, old in pairs) and not has_baseline:
        return True
    if old_all.total + old_hanging < _CONCURRENT or not new_all.total + new_hanging:
        return None
    p95_new, p95_old = _p95_s(new_all, new_hanging), _p95_s(old_all, old_hanging)
    if p95_old == inf or p95_new <= ratio * p95_old:
        return False
    return _sureness(pairs) >= _SURE


def _p95_s(ended: Histogram, hanging: int) -> float:
    """P95 where what hangs takes longer than all that ended; infinite where it is one of those."""
    rank, seen = ceil(_SHARE * (ended.total + hanging)), 0
    for bucket, count in enumerate(ended.counts):
        seen += count
        if count and seen >= rank:
            return value_of(bucket)
    return inf


def _add_relative(total: Histogram, durations: Histogram, limit_s: float) -> None:
    """Adds durations as multiples of a limit, which is the middle of the range: buckets are logarithmic."""
    shift = BUCKETS // 2 - bucket_of(limit_s)
    for bucket, count in enumerate(durations.counts):
        if count:
            total.counts[min(BUCKETS - 1, max(0, bucket + shift))] += count


def _sureness(pairs: Iterable[tuple[_Slow, _Slow]]) -> float:
    """By how many standard errors new's slow answers exceed what old's share makes expect.

    Of one pair this is the test of two proportions, pooled.
    """
    excess = variance = 0.0
    for new, old in pairs:
        if not new.n or not old.n:
            continue
        pooled = (new.slow + old.slow) / (new.n + old.n)
        excess += new.slow - new.n * pooled
        variance += pooled * (1 - pooled) * new.n * old.n / (new.n + old.n)
    # All of both, or none of either.
    return excess / sqrt(variance) if variance else 0.0
