from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.shared_clock import SharedClock

REDIS = 1_800_000_000.0


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(st.floats(0, 100), st.floats(0.0001, 3), st.floats(0, 1)), min_size=1))
def test_it_is_off_by_half_a_round_trip_at_most(skew: float, asked: list[tuple[float, float, float]]) -> None:
    """Whatever the own clock says, and however unevenly the way there and back takes."""
    now = 0.0
    clock = SharedClock(lambda: now + skew)
    quickest = 100.0
    for pause, trip, share in asked:
        now += pause
        begun = now
        now += trip
        clock.note(REDIS + begun + share * trip, begun + skew, now + skew)
        quickest = min(quickest, trip)
        assert abs(clock.now() - (REDIS + now)) <= quickest / 2 + 1e-4 * now + 1e-3


def test_it_tells_its_own_time_before() -> None:
    assert SharedClock(lambda: 7.0).now() == 7.0
