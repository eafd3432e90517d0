"""The simulation: its short cut is exact, its numbers are Poisson's, and rules of other tools are told truly."""

from __future__ import annotations

import random
from functools import partial
from statistics import fmean, median, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.detect.cusum import Detector, Excursion, WindowRule, error_trigger
from gateway.core.detect.simulate import (
    FixedWindow,
    NewRule,
    RepeatedChecks,
    Rule,
    Traffic,
    false_trips,
    first_trip,
    poisson,
    poisson_above_zero,
    time_to_trip,
)

ERRORS = error_trigger()


class Plain:
    """A detector that the simulation does not recognise, so that it gets every tick."""

    def __init__(self) -> None:
        self._detector = Detector(ERRORS)

    def tick(self, n: int, k: int, now: float) -> Excursion | None:
        return self._detector.tick(n, k, now)


counts = st.tuples(st.integers(0, 40), st.sampled_from([0, 0, 0, 1, 2, 15]))


@given(ticks=st.lists(counts, max_size=60))
def test_ticks_without_a_bad_event_may_be_taken_together(ticks: list[tuple[int, int]]) -> None:
    each, together = Detector(ERRORS), Detector(ERRORS)
    quiet = 0
    for at, (n, k) in enumerate([*ticks, (1, 1)]):
        found = each.tick(n, k, float(at))
        if not k:
            quiet += n
            assert found is None
            continue
        together.tick(quiet, 0, float(at))
        quiet = 0
        other = together.tick(n, k, float(at))
        assert (found is None) == (other is None)
        best, same = each.best(), together.best()
        assert (best is None) == (same is None)
        if best is not None and same is not None:
            assert (best.rate, best.n, best.k, best.since) == (same.rate, same.n, same.k, same.since)
            assert best.evidence == pytest.approx(same.evidence)


@pytest.mark.parametrize(("per_s", "rate"), [(1, 0.5), (10, 0.1), (100, 0.1), (1000, 0.06)])
def test_the_short_cut_trips_when_every_tick_does(per_s: float, rate: float) -> None:
    def typical(new_rule: NewRule) -> float:
        rng = random.Random(3)
        healthy, broken = Traffic(per_s, 0.01), Traffic(per_s, rate)
        found = [time_to_trip(new_rule, healthy, broken, 3600, rng.random) for _ in range(40)]
        return median(trip.after_s for trip in found if trip is not None)

    assert typical(partial(Detector, ERRORS)) == pytest.approx(typical(Plain), rel=0.4)


@pytest.mark.parametrize("mean", [0.003, 0.7, 5.0, 11.9, 12.0, 40.0, 2500.0])
def test_numbers_of_events_are_poissons(mean: float) -> None:
    rng = random.Random(5)
    drawn = [poisson(mean, rng.random) for _ in range(20_000)]
    spread = (mean / 20_000) ** 0.5
    assert fmean(drawn) == pytest.approx(mean, abs=5 * spread)
    assert pvariance(drawn) == pytest.approx(mean, rel=0.1 if mean > 0.1 else 0.5)
    above = [poisson_above_zero(mean, rng.random) for _ in range(2000)]
    assert min(above) >= 1
    if mean < 1:
        assert fmean(above) == pytest.approx(mean / (1 - 2.718281828**-mean), rel=0.1)
    assert poisson(0, rng.random) == 0


def test_draws_at_the_edge_end() -> None:
    draws = iter([0.0, 0.0, 0.999, 0.5, *[0.5] * 100])
    assert poisson(100, lambda: next(draws)) >= 0
    assert poisson_above_zero(0.001, lambda: 0.0) == 1
    assert poisson_above_zero(0.001, lambda: 1 - 2**-53) < 20


def test_nothing_bad_never_trips_and_time_passes_all_the_same() -> None:
    rng = random.Random(1)
    assert first_trip(Detector(ERRORS), Traffic(10, 0.0), 1e6, rng.random) is None
    assert first_trip(Detector(ERRORS), Traffic(0, 0.5), 1e6, rng.random) is None


def test_health_does_not_trip_in_days_and_another_seed_says_the_same() -> None:
    """The long form, 200 days of each, is `make bench-guard`."""
    for seed in (1, 2):
        assert false_trips(partial(Detector, ERRORS), Traffic(10, 0.01), 3, random.Random(seed).random) == 0


def test_a_fixed_window_forgets_and_needs_some_events() -> None:
    rule = FixedWindow(0.05, window_s=60, least=20)
    assert rule.tick(19, 19, 0.25) is None
    found = rule.tick(1, 0, 0.5)
    assert found is not None
    assert (found.n, found.k) == (20, 19)
    assert rule.tick(1000, 0, 50.0) is None
    assert rule.tick(0, 0, 300.0) is None
    assert rule.tick(20, 1, 300.25) is None


def test_repeated_checks_must_fail_in_a_row() -> None:
    rule = RepeatedChecks(0.05, interval_s=1, failures=3)

    def minute(n: int, k: int, at: int) -> bool:
        return [rule.tick(n, k, at + part / 4) for part in (1, 2, 3, 4)][-1] is not None

    assert [minute(1, 1, at) for at in range(2)] == [False, False]
    assert not minute(100, 1, 2)
    assert [minute(1, 1, at) for at in (3, 4)] == [False, False]
    assert not minute(0, 0, 5), "nothing seen is neither"
    assert minute(1, 1, 6)


def test_other_rules_are_slow_or_nervous() -> None:
    """What the page shows: five looks take five minutes; a window of 20 events trips healthy traffic in an hour."""

    def at_once() -> Rule:
        return RepeatedChecks(0.05)

    rng = random.Random(1)
    found = time_to_trip(at_once, Traffic(100, 0.01), Traffic(100, 1.0), 3600, rng.random)
    assert found is not None
    assert 240 <= found.after_s <= 300
    assert false_trips(partial(FixedWindow, 0.05), Traffic(1, 0.01), 0.2, rng.random) > 3
    assert false_trips(partial(WindowRule, 0.05), Traffic(10, 0.01), 0.02, rng.random) == 0
