"""What the shipped detectors would do with some traffic: time to a trip, false trips a day. Pure; draws are given.

Rules of other tools stand beside them, for comparison only: no gateway decides by them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import erf, exp, floor, lgamma, log, sqrt
from typing import Final, Protocol

from gateway.core.detect.cusum import Detector, Excursion

TICK_S: Final = 0.25
DAY_S: Final = 86_400.0
HEALTHY_S: Final = 600.0
"""How long all is well before something breaks."""
_P95: Final = 1.6448536269514722
_LARGE: Final = 12.0

Draw = Callable[[], float]
"""Uniform numbers, 0 <= x < 1."""


class Rule(Protocol):
    """Whatever decides from counts."""

    def tick(self, n: int, k: int, now: float) -> Excursion | None:
        """Takes the events since the last tick, and the bad ones among them; not None: trip."""
        ...


NewRule = Callable[[], Rule]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a detector sees.

    Attributes:
        per_s: Events a second.
        rate: Share of bad ones, 0-1.
    """

    per_s: float
    rate: float


@dataclass(frozen=True, slots=True)
class Tripped:
    """A trip.

    Attributes:
        after_s: Seconds from the beginning.
        events: Until then.
    """

    after_s: float
    events: int


class FixedWindow:
    """More than the threshold within the last seconds, of some events: an alert on a rate, as most tools have it."""

    def __init__(self, threshold: float, window_s: float = 60.0, least: int = 20) -> None:
        self._threshold, self._window_s, self._least = threshold, window_s, least
        self._ticks: deque[tuple[float, int, int]] = deque()
        self._n = self._k = 0

    def tick(self, n: int, k: int, now: float) -> Excursion | None:
        """See `Rule`."""
        if n:
            self._ticks.append((now, n, k))
            self._n, self._k = self._n + n, self._k + k
        while self._ticks and self._ticks[0][0] <= now - self._window_s:
            _, gone, gone_bad = self._ticks.popleft()
            self._n, self._k = self._n - gone, self._k - gone_bad
        if self._n < self._least or self._k <= self._threshold * self._n:
            return None
        return Excursion(self._threshold, self._n, self._k, self._ticks[0][0], 1.0)


class RepeatedChecks:
    """As Flagger does: once an interval the rate since the last look, whatever it rests on; so many failed looks."""

    def __init__(self, threshold: float, interval_s: float = 60.0, failures: int = 5) -> None:
        self._threshold, self._interval_s, self._failures = threshold, interval_s, failures
        self._n = self._k = self._failed = 0
        self._begun: float | None = None

    def tick(self, n: int, k: int, now: float) -> Excursion | None:
        """See `Rule`. A look that sees nothing counts neither way; one that passes begins anew."""
        if self._begun is None:
            self._begun = now - TICK_S
        self._n, self._k = self._n + n, self._k + k
        if now - self._begun < self._interval_s:
            return None
        seen, bad, begun = self._n, self._k, self._begun
        self._n, self._k, self._begun = 0, 0, now
        if not seen:
            return None
        self._failed = self._failed + 1 if bad > self._threshold * seen else 0
        return Excursion(self._threshold, seen, bad, begun, 1.0) if self._failed >= self._failures else None


def first_trip(rule: Rule, traffic: Traffic, limit_s: float, draw: Draw, begin_s: float = 0.0) -> Tripped | None:
    """Runs a rule over Poisson traffic until it trips; None when it never does.

    Args:
        rule: Its state is carried on.
        traffic: What it sees.
        limit_s: At most so long.
        draw: Random numbers.
        begin_s: The rule's clock when it begins.
    """
    ticks = int(limit_s / TICK_S)
    if isinstance(rule, Detector):
        return _first_trip_of_detector(rule, traffic, ticks, draw, begin_s)
    good, bad = traffic.per_s * (1 - traffic.rate) * TICK_S, traffic.per_s * traffic.rate * TICK_S
    events = 0
    for tick in range(1, ticks + 1):
        k = poisson(bad, draw)
        n = k + poisson(good, draw)
        events += n
        if rule.tick(n, k, begin_s + tick * TICK_S) is not None:
            return Tripped(tick * TICK_S, events)
    return None


def _first_trip_of_detector(
    detector: Detector, traffic: Traffic, ticks: int, draw: Draw, begin_s: float
) -> Tripped | None:
    """As tick by tick, for less: ticks without a bad event are taken together.

    That is exact. Such a tick only lowers a score, by its events alone, and one that has fallen to zero begins anew at
    the next tick with a bad event, however long ago it fell; nothing trips meanwhile. Where all have, it does nothing.
    """
    good, bad = traffic.per_s * (1 - traffic.rate) * TICK_S, traffic.per_s * traffic.rate * TICK_S
    events = at = unseen = 0
    while at < ticks:
        # How many ticks without a bad event come first: P(at least m) = exp(-bad * m).
        quiet = min(ticks - at, floor(-log(1 - draw()) / bad)) if bad > 0 else ticks - at
        if quiet:
            at += quiet
            if detector.evidence <= 0:
                unseen += quiet
            else:
                n = poisson(good * quiet, draw)
                events += n
                detector.tick(n, 0, begin_s + at * TICK_S)
        if at < ticks:
            at += 1
            k = poisson_above_zero(bad, draw)
            n = k + poisson(good, draw)
            events += n
            if detector.tick(n, k, begin_s + at * TICK_S) is not None:
                return Tripped(at * TICK_S, events + poisson(good * unseen, draw))
    return None


def time_to_trip(new_rule: NewRule, healthy: Traffic, broken: Traffic, limit_s: float, draw: Draw) -> Tripped | None:
    """How long a breach takes to be noticed, after ten healthy minutes and at any moment of the next."""
    rule, begin_s = new_rule(), HEALTHY_S + int(60 * draw() / TICK_S) * TICK_S
    first_trip(rule, healthy, begin_s, draw)
    return first_trip(rule, broken, limit_s, draw, begin_s)


def false_trips(new_rule: NewRule, healthy: Traffic, days: float, draw: Draw) -> int:
    """How often healthy traffic trips in so many days; each trip is re-armed at once."""
    left_s, trips = days * DAY_S, 0
    while left_s > 0:
        found = first_trip(new_rule(), healthy, left_s, draw)
        if found is None:
            break
        trips += 1
        left_s -= found.after_s
    return trips


def share_above_limit(ratio: float, spread: float, allowed: float = 2.0) -> float:
    """The share of new's answers above `allowed` times old's P95, where both are lognormal.

    Args:
        ratio: New's P95 over old's.
        spread: Sigma of the logarithm; 0.5 is narrow, 1.5 wide.
        allowed: The limit, in old's P95.
    """
    z = (log(allowed / ratio) + _P95 * spread) / spread
    return 0.5 * (1 - erf(z / sqrt(2)))


def poisson(mean: float, draw: Draw) -> int:
    """A number of events: Knuth's product for few, rejection for many (Hörmann 1993, "PTRS")."""
    if mean <= 0:
        return 0
    if mean < _LARGE:
        bound, product, count = exp(-mean), draw(), 0
        while product > bound:
            product *= draw()
            count += 1
        return count
    b = 0.931 + 2.53 * sqrt(mean)
    a = -0.059 + 0.02483 * b
    while True:
        u, v = draw() - 0.5, 1 - draw()
        us = 0.5 - abs(u)
        if us <= 0:
            continue
        k = floor((2 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= 0.9277 - 3.6224 / (b - 2):
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        if log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (us * us) + b)) <= k * log(mean) - mean - lgamma(k + 1):
            return k


def poisson_above_zero(mean: float, draw: Draw) -> int:
    """A number of events, given that there is one at least; `mean` above 0."""
    if mean >= _LARGE:
        while not (count := poisson(mean, draw)):
            pass
        return count
    weight = exp(-mean)
    left, count = (1 - weight) * draw(), 1
    weight *= mean
    while left > weight and weight > 0:
        left -= weight
        count += 1
        weight *= mean / count
    return count
