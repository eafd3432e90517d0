"""How slow is too slow: a limit from what the baseline does now, and a second look at the time in question.

"P95 of new is above twice P95 of old" is the same as "more than 5 % of new's answers take longer than twice old's P95":
a rate, counted exactly. The limit carries the histogram's error of 2 %, the count none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from math import sqrt
from typing import Final

from gateway.core.histogram import Histogram, bucket_of

_SPANS_S: Final = (300.0, 600.0, 1200.0, 1800.0)
_LONGEST_S: Final = 1800.0
_ENOUGH: Final = 2000
_LEAST: Final = 100
_CONCURRENT: Final = 20
_LATELY: Final = 5
_SURE: Final = 3.0
FLOOR_S: Final = 0.010
"""Below it nothing is slow: 3 ms instead of 1 ms is no incident."""


class Baseline:
    """What the baseline side did lately, from cumulative histograms.

    Attributes:
        limit_s: Longer is too slow; None while too little is known. Kept when the baseline falls silent.
    """

    def __init__(self, ratio: float = 2.0, floor_s: float = FLOOR_S) -> None:
        self._ratio = ratio
        self._floor_s = floor_s
        self._seen: deque[tuple[float, Histogram]] = deque()
        self.limit_s: float | None = None

    def note(self, cumulative: Histogram, now: float) -> None:
        """Takes the histogram since the beginning. Call it every few seconds."""
        self._seen.append((now, cumulative))
        while len(self._seen) > 1 and now - self._seen[1][0] >= _LONGEST_S:
            self._seen.popleft()
        recent = self._recent(cumulative, now)
        p95_s = recent.quantile(0.95) if recent.total >= _LEAST else None
        if p95_s is not None:
            self.limit_s = max(self._ratio * p95_s, self._floor_s)

    def _recent(self, cumulative: Histogram, now: float) -> Histogram:
        """Of the last five minutes; of up to thirty where that is too little."""
        chosen = Histogram()
        times = [at for at, _ in self._seen]
        for span_s in _SPANS_S:
            # The last one that is old enough, else the first there is.
            index = max(0, bisect_right(times, now - span_s) - 1)
            chosen = cumulative - self._seen[index][1]
            if chosen.total >= _ENOUGH:
                break
        return chosen


@dataclass(frozen=True, slots=True)
class Concurrent:
    """What both sides did during an excursion.

    Attributes:
        new: Of new.
        old: Of the baseline.
        late: Requests to new that were counted as too slow, whether they have ended or not.
        lately: Of the baseline, the end of the excursion alone.
    """

    new: Histogram
    old: Histogram
    late: int = 0
    lately: Histogram | None = None


def is_confirmed(seen: Concurrent, ratio: float, limit_s: float) -> bool | None:
    """Whether new was slower than the baseline at the same time; None: the baseline says too little to tell.

    A slowdown of both sides is nobody's fault.
    """
    n_old, n_new = seen.old.total, seen.new.total
    if n_old == 0:
        # No baseline at all: the limit is all there is.
        return True
    last = bucket_of(limit_s)
    slow_new, slow_old = sum(seen.new.counts[last + 1 :]), sum(seen.old.counts[last + 1 :])
    hanging = seen.late - slow_new
    if seen.lately is not None and hanging > slow_new:
        # Most of what is late has not ended. What old did before says nothing then: is old answering now?
        lately = seen.lately.total
        if lately < _LATELY:
            return None
        slow_lately = sum(seen.lately.counts[last + 1 :])
        return _is_sure(seen.late, n_new + hanging, slow_lately, lately)
    if n_old < _CONCURRENT or not n_new:
        return None
    p95_new, p95_old = seen.new.quantile(0.95), seen.old.quantile(0.95)
    if p95_new is None or p95_old is None or p95_new <= ratio * p95_old:
        return False
    return _is_sure(slow_new, n_new, slow_old, n_old)


def _is_sure(slow_new: int, n_new: int, slow_old: int, n_old: int) -> bool:
    """Whether new's share of slow answers is larger by more than chance: two proportions, pooled."""
    pooled = (slow_new + slow_old) / (n_new + n_old)
    error = sqrt(pooled * (1 - pooled) * (1 / n_new + 1 / n_old))
    if error == 0:
        # All of both, or none of either.
        return False
    return (slow_new / n_new - slow_old / n_old) / error >= _SURE
