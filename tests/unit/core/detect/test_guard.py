"""The guard of an operation: states that never pass for a silent yes, and slowness held against the baseline."""

from __future__ import annotations

import random

import pytest

from gateway.core.detect.cusum import Excursion, Signal
from gateway.core.detect.guard import Counted, Guard, GuardState
from gateway.core.detect.latency import Baseline, Concurrent, is_confirmed
from gateway.core.histogram import Histogram
from gateway.core.model import Thresholds


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
