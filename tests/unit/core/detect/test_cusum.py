"""The detectors: when they trip, and above all when they do not. Seeded; the tables are those of docs/detectors.md."""

from __future__ import annotations

import random
from functools import partial
from statistics import median

import pytest

from gateway.core.detect.cusum import (
    STRICT,
    Detector,
    Dispersion,
    Trigger,
    WindowRule,
    consistency_trigger,
    error_trigger,
    latency_trigger,
)
from gateway.core.detect.floors import ConsecutiveFailures, Silence
from gateway.core.detect.simulate import Traffic, false_trips, poisson, share_above_limit, time_to_trip

ERRORS, LATENCY, CONSISTENCY = error_trigger(), latency_trigger(), consistency_trigger()


def draws(seed: int = 1) -> random.Random:
    return random.Random(seed)


# --- time to a trip ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_s", "rate", "least_s", "most_s"),
    [
        (1, 0.5, 8, 40),
        (1, 1.0, 6, 20),
        (10, 0.1, 12, 60),
        (10, 0.5, 1.0, 4.0),
        (10, 1.0, 0.75, 2.0),
        (100, 0.06, 5, 70),
        (100, 0.1, 1.5, 7),
        (100, 0.5, 0.75, 1.0),
        (100, 1.0, 0.75, 0.75),
        (1000, 0.1, 0.75, 1.5),
        (1000, 1.0, 0.75, 0.75),
    ],
)
def test_a_breach_is_noticed_in_time(per_s: float, rate: float, least_s: float, most_s: float) -> None:
    """Around the medians that were simulated for the design: 19 s, 10 s, 31 s, 2.0 s, 1.0 s, 18 s, 3.5 s, 0.75 s …"""
    rng = draws()
    found = [
        time_to_trip(partial(Detector, ERRORS), Traffic(per_s, 0.01), Traffic(per_s, rate), 3600, rng.random)
        for _ in range(15)
    ]
    assert all(trip is not None for trip in found)
    assert least_s <= median(trip.after_s for trip in found if trip is not None) <= most_s


@pytest.mark.parametrize(("rate", "most"), [(1.0, 6), (0.1, 90), (0.01, 1200)])
def test_mismatches_are_noticed(rate: float, most: int) -> None:
    rng = draws()
    found = [
        time_to_trip(partial(Detector, CONSISTENCY), Traffic(4, 0), Traffic(4, rate), 7200, rng.random)
        for _ in range(15)
    ]
    assert all(trip is not None for trip in found)
    assert median(trip.events for trip in found if trip is not None) <= most


@pytest.mark.parametrize(("ratio", "spread", "least_s", "most_s"), [(5, 0.5, 0.75, 1.0), (5, 1.0, 0.75, 1.75)])
def test_a_slow_side_is_noticed(ratio: float, spread: float, least_s: float, most_s: float) -> None:
    rng = draws()
    rate = share_above_limit(ratio, spread)
    found = [
        time_to_trip(partial(Detector, LATENCY), Traffic(100, 0.004), Traffic(100, rate), 600, rng.random)
        for _ in range(15)
    ]
    assert all(trip is not None for trip in found)
    assert least_s <= median(trip.after_s for trip in found if trip is not None) <= most_s


def test_a_healthy_past_is_no_inertia() -> None:
    detector = Detector(ERRORS)
    for tick in range(400_000):
        detector.tick(25, 0, tick * 0.25)
    trips = [detector.tick(25, 25, 100_000 + tick * 0.25) for tick in range(3)]
    assert [trip is not None for trip in trips] == [False, False, True]


# --- no false trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "per_s", "rate"),
    [
        (ERRORS, 1, 0.01),
        (ERRORS, 10, 0.01),
        (ERRORS, 1, 0.02),
        (LATENCY, 10, share_above_limit(1.0, 1.0)),
        (LATENCY, 10, share_above_limit(1.5, 1.0)),
        (CONSISTENCY, 10, 1e-5),
    ],
)
def test_healthy_traffic_never_trips(trigger: Trigger, per_s: float, rate: float) -> None:
    assert false_trips(partial(Detector, trigger), Traffic(per_s, rate), 1.0, draws(7).random) == 0


def test_one_bad_moment_never_trips() -> None:
    for n in (1, 10, 1000, 10**6):
        detector = Detector(ERRORS)
        assert detector.tick(n, n, 0.25) is None
        assert detector.tick(n, n, 0.5) is None
        assert detector.evidence < 1


def test_few_bad_events_never_trip() -> None:
    detector = Detector(ERRORS)
    assert all(detector.tick(1, 1, tick * 0.25) is None for tick in range(9))
    assert Detector(CONSISTENCY).tick(2, 2, 0.0) is None


def test_nothing_is_no_evidence() -> None:
    detector = Detector(ERRORS)
    for tick in range(1000):
        assert detector.tick(0, 0, float(tick)) is None
    assert detector.evidence == 0
    assert detector.best() is None


def test_more_detectors_and_bursts_ask_for_more() -> None:
    assert Detector(ERRORS, detectors=60).limit > Detector(ERRORS).limit
    assert Detector(ERRORS, STRICT).limit < Detector(ERRORS).limit
    plain, bursty = Detector(ERRORS), Detector(ERRORS)
    bursty.dispersion = 3.0
    for tick in range(2):
        plain.tick(10, 3, tick * 0.25)
        bursty.tick(10, 3, tick * 0.25)
    assert plain.evidence > bursty.evidence


def test_other_thresholds_have_alternatives_above_them() -> None:
    for threshold in (0.001, 0.05, 0.2, 0.5, 0.9, 0.99):
        trigger = error_trigger(threshold)
        assert len(trigger.grid) == 5
        assert all(rate > threshold for rate in trigger.grid)
        assert Detector(trigger).limit > 0
    for agreement in (0.5, 0.99, 0.9999, 1.0):
        trigger = consistency_trigger(agreement)
        assert len(trigger.grid) == 5
        assert all(trigger.threshold < rate < 1 for rate in trigger.grid)


def test_the_excursion_is_the_evidence() -> None:
    detector = Detector(ERRORS)
    detector.tick(100, 0, 0.0)
    for tick in range(1, 4):
        found = detector.tick(25, 20, tick * 0.25, mark=tick)
    assert found is not None
    assert (found.n, found.k, found.since, found.mark) == (75, 60, 0.25, 1)
    detector.reset()
    assert detector.evidence == 0


# --- what is beside it ---------------------------------------------------------------------------------------------


def test_dispersion_is_learnt_from_an_hour() -> None:
    even, bursts = Dispersion(), Dispersion()
    rng = draws()
    for tick in range(Dispersion.ENOUGH_TICKS):
        assert even.value is None
        even.note(poisson(0.3, rng.random))
        bursts.note(5 if tick % 17 == 0 else 0)
    assert even.value == pytest.approx(1.0, abs=0.1)
    assert bursts.value is not None
    assert 4 < bursts.value <= 10


def test_the_literal_rule_needs_enough_events() -> None:
    rule = WindowRule(0.05, least=20)
    assert rule.least == 200
    assert rule.tick(199, 100, 0.0) is None
    assert rule.tick(1, 0, 1.0) is not None
    assert rule.tick(1000, 0, 50.0) is not None
    assert rule.tick(1, 0, 61.5) is None


def test_ten_failures_in_a_row_are_a_floor() -> None:
    floor = ConsecutiveFailures()
    assert [floor.failed(n) for n in range(10)] == [False] * 9 + [True]
    floor = ConsecutiveFailures()
    for n in range(9):
        floor.failed(n)
    floor.succeeded()
    assert not any(floor.failed(10 + n) for n in range(9))
    assert not any(ConsecutiveFailures().failed(4.0 * n) for n in range(9))
    slow = ConsecutiveFailures()
    assert not any(slow.failed(4.0 * n) for n in range(40))


def test_silence_is_a_floor() -> None:
    silence = Silence()
    assert not silence.tick(9, 0, 0.0, 1.0)
    assert not silence.tick(10, 0, 10.0, 1.0)
    assert not silence.tick(30, 0, 14.9, 1.0)
    assert silence.tick(30, 0, 15.0, 1.0)
    assert not silence.tick(30, 1, 15.1, None)
    assert not silence.tick(30, 0, 16.0, 8.0)
    assert not silence.tick(30, 0, 22.0, 8.0)
    assert silence.tick(30, 0, 24.0, 8.0)


def test_what_the_limit_of_latency_means() -> None:
    assert share_above_limit(2.0, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert share_above_limit(1.0, 0.5) < 0.005


def test_a_window_forgets_says_how_far_it_is_and_what_it_lacks() -> None:
    rule = WindowRule(0.05, window_s=10.0)
    assert rule.tick(100, 6, 0.0, "mark") is None
    assert rule.evidence == pytest.approx(0.6)
    assert rule.needed() == 100
    found = rule.tick(100, 6, 1.0)
    assert found is not None
    assert (found.n, found.k, found.since, found.mark) == (200, 12, 0.0, "mark")
    assert rule.evidence == 1
    # The first tick leaves the window without anything new.
    assert rule.tick(0, 0, 10.5) is None
    assert rule.evidence == pytest.approx(0.6)
    rule.tick(0, 0, 11.0)
    assert rule.evidence == 0
    rule.tick(300, 300, 12.0)
    rule.reset()
    assert rule.tick(1, 0, 12.25) is None
