"""The guard of an operation: states that never pass for a silent yes, and slowness held against the baseline."""

from __future__ import annotations

import random

import pytest

from gateway.core.detect.cusum import Excursion, Signal
from gateway.core.detect.guard import Counted, Guard, GuardState
from gateway.core.detect.latency import (
    Baseline,
    Concurrent,
    hour_of_week,
    is_confirmed,
    is_confirmed_together,
    reference_p95_s,
)
from gateway.core.histogram import Histogram
from gateway.core.model import WINDOW, Thresholds


def always(_: Excursion) -> bool:
    return True


class Run:
    """A guard and its clock."""

    def __init__(self) -> None:
        self.guard = Guard(Thresholds())
        self.now = 0.0

    def ticks(
        self, count: int, counted: Counted, limit_s: float | None = 0.1, confirm: object = always
    ) -> list[Signal]:
        found = []
        for _ in range(count):
            self.now += 0.25
            trip = self.guard.tick(counted, self.now, limit_s, None, confirm)  # type: ignore[arg-type]
            if trip is not None:
                found.append(trip.signal)
        return found

    @property
    def state(self) -> str:
        return self.guard.state(self.now)[0].value


HEALTHY = Counted(n=25, timed=25)


def test_states_from_nothing_to_armed_to_tripped() -> None:
    run = Run()
    assert run.state == GuardState.NO_DATA
    run.ticks(10, HEALTHY, limit_s=None)
    assert run.state == GuardState.NOT_ARMED
    run.ticks(10, HEALTHY)
    assert run.state == GuardState.NOT_ARMED
    run.ticks(120, HEALTHY)
    assert run.state == GuardState.ARMED
    assert run.ticks(3, Counted(n=25, errors=25, timed=25)) == [Signal.ERRORS]
    assert run.state == GuardState.TRIPPED
    assert run.ticks(3, Counted(n=25, errors=25)) == []
    run.guard.reset()
    assert run.state == GuardState.NO_DATA


def test_errors_trip_before_latency_is_armed() -> None:
    assert Run().ticks(4, Counted(n=25, errors=25, timed=25, slow=25), limit_s=None) == [Signal.ERRORS]


def test_an_early_warning_holds_and_clears_late() -> None:
    run = Run()
    run.ticks(200, HEALTHY)
    while run.guard.evidence < 0.5:
        run.ticks(1, Counted(n=25, errors=5, timed=25))
    seen = [run.state]
    while run.guard.evidence > 0.3:
        run.ticks(1, HEALTHY)
    seen.append(run.state)
    run.ticks(100, HEALTHY)
    assert [*seen, run.state] == [GuardState.HOLD, GuardState.HOLD, GuardState.ARMED]


def test_slowness_must_be_borne_out() -> None:
    run = Run()
    run.ticks(130, HEALTHY)
    slow = Counted(n=25, timed=25, slow=20)
    assert run.ticks(10, slow, confirm=lambda _: False) == []
    assert run.ticks(10, slow, confirm=lambda _: None) == []
    assert run.ticks(1, slow) == [Signal.LATENCY]


def test_latency_waits_for_its_warm_up() -> None:
    run = Run()
    assert run.ticks(119, Counted(n=25, timed=25, slow=25)) == []
    assert run.ticks(10, Counted(n=25, timed=25, slow=25)) == [Signal.LATENCY]


def test_mismatches_trip() -> None:
    assert Run().ticks(8, Counted(n=25, timed=25, compared=1, mismatches=1)) == [Signal.CONSISTENCY]


def test_a_trip_says_why() -> None:
    run = Run()
    run.ticks(200, HEALTHY)
    run.ticks(3, Counted(n=25, errors=25))
    assert run.guard.tripped is not None
    assert run.guard.tripped.reason().startswith("errors: ")
    assert "of" in run.guard.tripped.reason()


def test_a_window_decides_where_the_profile_says_so() -> None:
    run = Run()
    run.guard = Guard(Thresholds(profile=WINDOW, window_s=10.0, min_samples=200))
    # 200 requests, 6 % of them failed: too little for any other profile.
    assert run.ticks(7, Counted(n=25, errors=2, timed=25)) == []
    assert run.ticks(1, Counted(n=25, errors=2, timed=25)) == [Signal.ERRORS]
    assert run.guard.scores()["errors"] == 1


def test_mirrored_failures_hold_and_never_trip() -> None:
    run = Run()
    for _ in range(20):
        run.now += 0.25
        run.guard.watch(Counted(copied=10, copied_errors=10), run.now)
    assert run.guard.is_held
    assert run.guard.tripped is None


def test_mirrored_mismatches_hold() -> None:
    run = Run()
    for _ in range(20):
        run.guard.watch(Counted(compared=10, mismatches=5), run.now)
    assert run.guard.is_held


# --- the limit of latency ------------------------------------------------------------------------------------------


def histogram(*seconds: float, times: int = 1) -> Histogram:
    found = Histogram()
    for value in seconds:
        for _ in range(times):
            found.record(value)
    return found


def test_the_limit_is_twice_the_p95_of_what_the_baseline_does_now() -> None:
    baseline = Baseline()
    assert baseline.limit_s is None
    baseline.note(Histogram(), 0.0)
    baseline.note(histogram(0.1, times=99), 10.0)
    assert baseline.limit_s is None
    baseline.note(histogram(0.1, times=200), 20.0)
    assert baseline.limit_s == pytest.approx(0.2, rel=0.03)
    # Five busy minutes later it is another one.
    before = histogram(0.1, times=200)
    for second in range(30, 400, 10):
        baseline.note(before + histogram(0.3, times=100 * (second - 20) // 10), float(second))
    assert baseline.limit_s == pytest.approx(0.6, rel=0.03)


def test_a_baseline_that_falls_silent_leaves_its_limit() -> None:
    baseline = Baseline()
    last = histogram(0.1, times=500)
    baseline.note(Histogram(), 0.0)
    baseline.note(last, 1.0)
    limit_s = baseline.limit_s
    for second in range(10, 4000, 10):
        baseline.note(last, float(second))
    assert baseline.limit_s == limit_s


def test_nothing_below_ten_milliseconds_is_slow() -> None:
    baseline = Baseline()
    baseline.note(Histogram(), 0.0)
    baseline.note(histogram(0.001, times=500), 1.0)
    assert baseline.limit_s == 0.010


def lognormal(rng: random.Random, median_s: float, count: int) -> Histogram:
    return histogram(*(median_s * rng.lognormvariate(0, 1) for _ in range(count)))


def test_a_slowdown_of_both_sides_is_nobodys_fault() -> None:
    rng = random.Random(3)
    limit_s = 2 * 0.05 * 5.18
    for factor in (3, 10):
        seen = Concurrent(lognormal(rng, 0.05 * factor * 1.2, 2000), lognormal(rng, 0.05 * factor, 2000))
        assert is_confirmed(seen, 2.0, limit_s) is False
    slow = Concurrent(lognormal(rng, 0.05 * 5, 500), lognormal(rng, 0.05, 500))
    assert is_confirmed(slow, 2.0, limit_s) is True


def test_a_baseline_that_says_too_little_holds_and_none_at_all_leaves_the_limit() -> None:
    slow = histogram(1.0, times=100)
    assert is_confirmed(Concurrent(slow, histogram(0.1, times=5)), 2.0, 0.2) is None
    assert is_confirmed(Concurrent(slow, Histogram()), 2.0, 0.2) is True
    assert is_confirmed(Concurrent(Histogram(), histogram(0.1, times=50)), 2.0, 0.2) is None


def test_what_hangs_counts_on_both_sides_alike() -> None:
    quick = histogram(0.05, times=40)
    assert is_confirmed(Concurrent(quick, quick, 20, 0), 2.0, 0.2) is True
    assert is_confirmed(Concurrent(quick, quick, 20, 20), 2.0, 0.2) is False
    # Old answers little, but it does.
    assert is_confirmed(Concurrent(Histogram(), histogram(0.05, times=5), 20, 0), 2.0, 0.2) is True
    assert is_confirmed(Concurrent(Histogram(), histogram(0.05, times=4), 20, 0), 2.0, 0.2) is None


def test_a_baseline_that_is_silent_just_now_is_waited_for() -> None:
    assert is_confirmed(Concurrent(histogram(1.0, times=50), Histogram(), has_baseline=True), 2.0, 0.2) is None


def test_together_shares_are_compared_within_each_operation() -> None:
    quick, slow = histogram(0.02, times=100), histogram(4.0, times=100)
    few_quick, few_slow = histogram(0.02, times=20), histogram(4.0, times=20)
    # Both sides of one operation are slow, and new has most of it.
    mixed = [(Concurrent(few_quick, quick), 0.04), (Concurrent(slow, few_slow), 2.0)]
    assert is_confirmed_together(mixed, 2.0) is False
    assert is_confirmed_together([(Concurrent(histogram(0.2, times=20), quick), 0.04)] * 2, 2.0) is True
    assert is_confirmed_together([(Concurrent(few_quick, Histogram()), 0.04)], 2.0) is True
    assert is_confirmed_together([(Concurrent(few_quick, Histogram(), has_baseline=True), 0.04)], 2.0) is None


def test_where_old_serves_nobody_its_answers_to_copies_and_then_the_past_are_the_baseline() -> None:
    baseline = Baseline()
    baseline.refer(0.4)
    assert baseline.source == "reference"
    assert baseline.limit_s == 0.8
    baseline.note(Histogram(), 5.0, histogram(0.1, times=100))
    assert baseline.source == "copied"
    assert baseline.limit_s == pytest.approx(0.2, rel=0.03)
    baseline.note(histogram(0.3, times=100), 10.0, histogram(0.1, times=100))
    baseline.refer(0.4)
    assert baseline.source == "served"
    assert baseline.limit_s == pytest.approx(0.6, rel=0.03)
    served, copied = histogram(0.3, times=100), histogram(0.1, times=100)
    for second in range(20, 4000, 10):
        baseline.note(served, float(second), copied)
    assert baseline.source == "kept"
    baseline.refer(0.4)
    assert baseline.source == "reference"


def test_a_reference_is_of_this_hour_else_of_one_alike_else_the_longest() -> None:
    known = {10: 0.1, 34: 0.2, 50: 0.9}
    assert reference_p95_s(known, 10) == 0.1
    assert reference_p95_s(known, 58) == 0.2
    assert reference_p95_s(known, 5) == 0.9
    assert reference_p95_s({}, 5) is None
    assert hour_of_week(1_700_000_000) == hour_of_week(1_700_000_000 + 7 * 86_400) != hour_of_week(1_700_003_600)
