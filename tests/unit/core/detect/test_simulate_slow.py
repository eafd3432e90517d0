"""Slowness, request by request on both sides, against the guard as shipped."""

from __future__ import annotations

import random
from statistics import median

import pytest

from gateway.core.detect import simulate_slow
from gateway.core.detect.simulate import TICK_S, Tripped
from gateway.core.detect.simulate_slow import Judging, Pace, SlowScene
from gateway.guard import evaluator, watched


def slowed(pace: Pace, seed: int, judging: Judging | None = None, limit_s: float = 120.0) -> Tripped | None:
    scene = SlowScene(judging or Judging(), random.Random(seed).random)
    scene.warm_up(Pace(pace.per_s, pace.sigma))
    return scene.run(pace, limit_s)


def test_it_keeps_the_rhythm_of_the_evaluator() -> None:
    assert TICK_S == evaluator.TICK_S
    assert simulate_slow.HISTOGRAMS_EVERY == evaluator._TURNS
    assert simulate_slow.BASELINE_EVERY_S == watched._NOTED_EVERY_S
    assert simulate_slow.HOT == evaluator._HOT
    assert simulate_slow.MERGES == watched._MERGES


@pytest.mark.parametrize(
    ("pace", "least_s", "most_s"),
    [
        (Pace(10, 0.5, 5), 1.5, 5),
        (Pace(10, 1.0, 5), 3, 15),
        (Pace(100, 0.5, 5), 0.75, 1.5),
        (Pace(100, 1.0, 2.5), 3, 15),
    ],
)
def test_a_slow_side_is_noticed(pace: Pace, least_s: float, most_s: float) -> None:
    """Medians of the design: 2.3 s, 5.8 s, 0.75 s, 5.8 s."""
    found = [slowed(pace, seed) for seed in range(5)]
    assert all(trip is not None for trip in found)
    assert least_s <= median(trip.after_s for trip in found if trip is not None) <= most_s


@pytest.mark.parametrize("times", [3, 10])
def test_a_slowdown_of_both_sides_is_nobodys_fault(times: float) -> None:
    for seed in range(3):
        assert slowed(Pace(20, 1.0, times, times), seed) is None


def test_without_the_second_look_it_would_be_news() -> None:
    found = slowed(Pace(20, 1.0, 10, 10), 1, Judging(is_confirming=False))
    assert found is not None
    assert found.after_s < 10


def test_half_as_slow_again_is_allowed() -> None:
    assert slowed(Pace(10, 1.0, 1.5), 1, limit_s=1800) is None
