"""The guard of latency on simulated requests of both sides: baseline, limit, count and second look, as shipped. Pure.

Every request has a time of its own, drawn from a lognormal; it is counted as too slow while it still runs, and enters
the histograms when it ends. What the evaluator does around the guard is done here at its rhythm; no network is between.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import ceil, exp, log
from statistics import NormalDist
from typing import Final

from gateway.core.detect.cusum import BALANCED, Excursion, Profile
from gateway.core.detect.guard import Counted, Guard, Trip
from gateway.core.detect.latency import Baseline, Concurrent, is_confirmed
from gateway.core.detect.simulate import TICK_S, Draw, Tripped, poisson
from gateway.core.histogram import Histogram
from gateway.core.model import Thresholds

HEALTHY_P95_S: Final = 0.1
HISTOGRAMS_EVERY: Final = 4
BASELINE_EVERY_S: Final = 5.0
HOT: Final = 0.25
MERGES: Final = 2
_P95: Final = NormalDist().inv_cdf(0.95)
_WARM_S: Final = 60.0
_LONGEST_WARM_S: Final = 400.0
_ENOUGH_ON_OLD: Final = 2000
"""Answers of old after which its P95 is known well: the warm-up lasts as long, within these limits."""
_LEAST_ON_OLD: Final = 130
"""Without so many it may not be known at all, however long that takes."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How both sides answer.

    Attributes:
        per_s: Requests a second, on each side.
        sigma: Of the logarithm of their times.
        new: P95 of new, as a multiple of the healthy one.
        old: P95 of old, likewise.
    """

    per_s: float
    sigma: float
    new: float = 1.0
    old: float = 1.0


@dataclass(frozen=True, slots=True)
class Judging:
    """How it is judged.

    Attributes:
        ratio: What new's P95 may be, in old's.
        profile: How sure to be.
        detectors: How many run side by side.
        is_confirming: Whether the second look is taken; without it only for comparison.
    """

    ratio: float = 2.0
    profile: Profile = BALANCED
    detectors: int = 1
    is_confirming: bool = True


@dataclass(slots=True)
class _Mark:
    """What was known when an excursion began, and of old when it was first asked whether it is borne out."""

    new: Histogram
    old: Histogram
    merges: int
    limit_s: float | None
    old_later: Histogram | None = None


@dataclass(slots=True)
class _Ending:
    """What happens at a later tick."""

    new: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)
    in_time: int = 0
    late: int = 0


class SlowScene:
    """Both sides, and a guard that watches new."""

    def __init__(self, judging: Judging, draw: Draw) -> None:
        """Nothing has happened yet.

        Args:
            judging: How it is judged.
            draw: Random numbers.
        """
        thresholds = Thresholds(p95_ratio=judging.ratio)
        self._judging, self._draw = judging, draw
        self._guard = Guard(thresholds, judging.profile, judging.detectors)
        self._baseline = Baseline(judging.ratio)
        self._ticks = self._merges = 0
        self._new, self._old = Histogram(), Histogram()
        self._seen_new, self._seen_old = Histogram(), Histogram()
        self._ahead: defaultdict[int, _Ending] = defaultdict(_Ending)
        self._normal = NormalDist()

    def run(self, pace: Pace, limit_s: float) -> Tripped | None:
        """Lets time pass until new is taken out, or for `limit_s`."""
        events = 0
        for tick in range(1, int(limit_s / TICK_S) + 1):
            self._ticks += 1
            events += self._send(pace)
            if self._judge(self._ahead.pop(self._ticks, _Ending())) is not None:
                return Tripped(tick * TICK_S, events)
        return None

    def warm_up(self, pace: Pace) -> None:
        """Until old's P95 is known, and the guard is armed."""
        self.run(pace, max(_WARM_S, min(_LONGEST_WARM_S, _ENOUGH_ON_OLD / pace.per_s), _LEAST_ON_OLD / pace.per_s))

    def _send(self, pace: Pace) -> int:
        """Requests of one tick: when they end, or are too late."""
        limit_s, expected = self._baseline.limit_s, pace.per_s * TICK_S
        sent = poisson(expected, self._draw)
        for time_s in self._times(sent, pace.new, pace.sigma):
            begun = self._draw()
            end = self._after(begun, time_s)
            self._ahead[end].new.append(time_s)
            if limit_s is not None and time_s > limit_s:
                self._ahead[min(end, self._after(begun, limit_s))].late += 1
            else:
                self._ahead[end].in_time += 1
        for time_s in self._times(poisson(expected, self._draw), pace.old, pace.sigma):
            self._ahead[self._after(self._draw(), time_s)].old.append(time_s)
        return sent

    def _times(self, count: int, multiple: float, sigma: float) -> list[float]:
        middle = log(HEALTHY_P95_S * multiple) - _P95 * sigma
        # 0 has no place under the curve.
        return [exp(middle + sigma * self._normal.inv_cdf(self._draw() or 0.5)) for _ in range(count)]

    def _after(self, begun: float, seconds: float) -> int:
        """The tick that sees what happens so many seconds after a moment of this one."""
        return self._ticks + max(0, ceil(begun + seconds / TICK_S) - 1)

    def _judge(self, ending: _Ending) -> Trip | None:
        for time_s in ending.new:
            self._new.record(time_s)
        for time_s in ending.old:
            self._old.record(time_s)
        now = self._ticks * TICK_S
        if self._ticks % HISTOGRAMS_EVERY == 0 or self._guard.evidence >= HOT:
            self._merges += 1
            self._seen_new, self._seen_old = Histogram(self._new.counts), Histogram(self._old.counts)
            if now % BASELINE_EVERY_S == 0:
                self._baseline.note(self._seen_old, now)
        mark = _Mark(self._seen_new, self._seen_old, self._merges, self._baseline.limit_s)
        timed = ending.in_time + ending.late
        counted = Counted(n=timed, timed=timed, slow=ending.late)
        return self._guard.tick(counted, now, self._baseline.limit_s, mark, self._confirm)

    def _confirm(self, excursion: Excursion) -> bool | None:
        """As `Evaluator._confirm`."""
        mark, limit_s = excursion.mark, self._baseline.limit_s
        assert isinstance(mark, _Mark)
        if not self._judging.is_confirming or limit_s is None:
            return True
        if self._merges - mark.merges < MERGES:
            return None
        if mark.old_later is None:
            mark.old_later = self._seen_old
        lately = self._seen_old - mark.old_later
        seen = Concurrent(self._seen_new - mark.new, self._seen_old - mark.old, excursion.k, lately)
        # What was counted by a lower limit must be looked for by that one: old may have become slow meanwhile, and its
        # limit with it; what has ended since would seem to hang.
        return is_confirmed(seen, self._judging.ratio, min(limit_s, mark.limit_s or limit_s))
