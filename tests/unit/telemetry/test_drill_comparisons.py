from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.comparisons import Comparisons
from gateway.telemetry.counters import RequestCounters


def test_a_suspicion_of_a_drill_is_the_drills_when_it_is_settled_after_it() -> None:
    counters = RequestCounters()
    counters.compared("op", "suspected")
    counters.compared("op", "suspected", is_rehearsed=True)
    counters.compared("op", "match", is_rehearsed=True)
    # The one that came first, in the middle of the drill.
    counters.compared("op", "settled")
    counters.compared("op", "mismatch")
    counters.compared("op", "settled")
    counters.compared("op", "match")
    counters.compared("op", "match")
    assert counters.blob()["comparisons"] == {"op": {"suspected": 1, "settled": 1, "mismatch": 1, "match": 1}}
    assert counters.blob()["rehearsed"] == {"op": {"suspected": 1, "settled": 1, "match": 2}}
    # Detectors see all of it: compared, mismatches.
    assert counters.signals()["op"][4:6] == [4, 1]


def test_several_at_once() -> None:
    counters = RequestCounters()
    counters.compared("op", "suspected", 2)
    counters.compared("op", "suspected", 3, is_rehearsed=True)
    counters.compared("op", "settled", 4)
    counters.compared("op", "incomparable:stopped", 4)
    assert counters.blob()["comparisons"] == {"op": {"suspected": 2, "settled": 2, "incomparable:stopped": 2}}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50))
def test_nothing_stays_open_in_the_figures(steps: list[tuple[bool, bool]]) -> None:
    """Whenever drills come and go: what was suspected is settled in the same figures."""
    comparisons, waiting = Comparisons(), 0
    for is_rehearsed, is_new in steps:
        if is_new:
            comparisons.note("op", "suspected", is_rehearsed=is_rehearsed)
            waiting += 1
        elif waiting:
            comparisons.note("op", "settled", is_rehearsed=is_rehearsed)
            comparisons.note("op", "mismatch", is_rehearsed=is_rehearsed)
            waiting -= 1
    for _ in range(waiting):
        comparisons.note("op", "settled")
        comparisons.note("op", "match")
    for figures in (comparisons.real, comparisons.rehearsed):
        counts: Mapping[str, int] = figures.get("op", {})
        assert counts.get("suspected", 0) == counts.get("settled", 0)
        assert counts.get("match", 0) + counts.get("mismatch", 0) == counts.get("settled", 0)
