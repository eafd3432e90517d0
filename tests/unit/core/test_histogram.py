"""Latency histograms: within 2 %, and exact to add and subtract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.histogram import BUCKETS, Histogram, bucket_of, value_of

DURATIONS = st.floats(min_value=1.1e-4, max_value=120, allow_nan=False)
SAMPLES = st.lists(DURATIONS, max_size=60)


def of(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.record(seconds)
    return histogram


@given(DURATIONS)
def test_a_value_read_back_is_within_two_percent(seconds: float) -> None:
    assert value_of(bucket_of(seconds)) == pytest.approx(seconds, rel=0.0201)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (-1.0, 0), (1e-9, 0), (1e-4, 0), (1e6, BUCKETS - 1)])
def test_what_is_out_of_range_counts_at_its_end(seconds: float, bucket: int) -> None:
    assert bucket_of(seconds) == bucket


@given(st.lists(DURATIONS, min_size=2, max_size=2).map(sorted))
def test_longer_durations_never_stand_in_lower_buckets(pair: list[float]) -> None:
    assert bucket_of(pair[0]) <= bucket_of(pair[1])


@given(SAMPLES, SAMPLES)
def test_adding_is_recording_both(left: list[float], right: list[float]) -> None:
    assert of(left) + of(right) == of(left + right)
    assert of(left + right) - of(right) == of(left)


@given(SAMPLES)
def test_the_sparse_form_gives_the_same_histogram(durations: list[float]) -> None:
    assert Histogram.from_sparse(of(durations).sparse()) == of(durations)


def test_buckets_that_do_not_exist_are_left_out() -> None:
    assert Histogram.from_sparse({"-1": 3, "352": 3, "x": 3, "7": 2}).sparse() == {"7": 2}


@given(st.lists(DURATIONS, min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_a_recorded_duration_within_two_percent(durations: list[float], share: float) -> None:
    ranked = sorted(durations)
    exact = ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
    assert of(durations).quantile(share) == pytest.approx(exact, rel=0.0201)


def test_nothing_recorded_has_no_quantile() -> None:
    assert Histogram().quantile(0.95) is None
