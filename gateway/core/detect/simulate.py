"""What the shipped detectors would do with some traffic: time to a trip, false trips a day. Pure; draws are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf, exp, log, sqrt
from typing import Final

from gateway.core.detect.cusum import Detector, Profile, Trigger, WindowRule

TICK_S: Final = 0.25
DAY_S: Final = 86_400.0
_P95: Final = 1.6448536269514722
_LARGE: Final = 30.0

Draw = Callable[[], float]
"""Uniform numbers from 0 to 1."""


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


def first_trip(rule: Detector | WindowRule, traffic: Traffic, limit_s: float, draw: Draw) -> Tripped | None:
    """Runs a detector over Poisson traffic until it trips; None when it never does.

    Args:
        rule: Its state is carried on.
        traffic: What it sees.
        limit_s: At most so long.
        draw: Random numbers.
    """
    good, bad = traffic.per_s * (1 - traffic.rate) * TICK_S, traffic.per_s * traffic.rate * TICK_S
    events = 0
    for tick in range(1, int(limit_s / TICK_S) + 1):
        k = poisson(bad, draw)
        n = k + poisson(good, draw)
        events += n
        if rule.tick(n, k, tick * TICK_S) is not None:
            return Tripped(tick * TICK_S, events)
    return None


def time_to_trip(
    trigger: Trigger, profile: Profile, healthy: Traffic, broken: Traffic, limit_s: float, draw: Draw
) -> Tripped | None:
    """How long a breach takes to be noticed, after ten healthy minutes."""
    rule = Detector(trigger, profile)
    first_trip(rule, healthy, 600.0, draw)
    return first_trip(rule, broken, limit_s, draw)


def false_trips(trigger: Trigger, profile: Profile, healthy: Traffic, days: float, draw: Draw) -> int:
    """How often healthy traffic trips in so many days; each trip is re-armed at once."""
    left_s, trips = days * DAY_S, 0
    while left_s > 0:
        found = first_trip(Detector(trigger, profile), healthy, left_s, draw)
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
    """A number of events (Knuth; for large means the sum of two halves)."""
    if mean <= 0:
        return 0
    if mean > _LARGE:
        return poisson(mean / 2, draw) + poisson(mean / 2, draw)
    bound, product, count = exp(-mean), draw(), 0
    while product > bound:
        product *= draw()
        count += 1
    return count
