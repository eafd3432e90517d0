"""What workers report is added up once, whatever is lost, said twice or begun anew; and sums never shrink."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.detect.guard import FIELDS
from gateway.core.detect.reports import Report
from gateway.guard.merging import Durations, Merge


def said(seq: int, n: int) -> Report:
    return Report(seq, {"a": [n, 0, n, 0, 0, 0]})


def taken(merge: Merge, now: float, **reports: Report) -> int:
    """How many requests of `a` are new."""
    return merge.take(reports, now).get("a", [0])[0]


def test_a_past_is_no_news() -> None:
    merge = Merge()
    assert taken(merge, 0.0, one=said(400, 1000)) == 0
    assert merge.take({"one": said(401, 1010)}, 0.25) == {"a": [10, 0, 10, *[0] * (len(FIELDS) - 3)]}
    # One that could not be heard until now.
    assert taken(merge, 0.5, one=said(401, 1010), two=said(900, 5000)) == 0


def test_what_this_process_counts_begins_with_it() -> None:
    assert taken(Merge(is_own=True), 0.0, own=said(1, 7)) == 7


def test_what_is_said_twice_lost_or_begun_anew_counts_once() -> None:
    merge = Merge()
    merge.take({"one": said(1, 0)}, 0.0)
    assert taken(merge, 0.5, one=said(3, 7)) == 7
    assert taken(merge, 0.75, one=said(3, 7)) == 0
    assert taken(merge, 1.0, one=said(2, 5)) == 0
    assert taken(merge, 1.25, one=said(3, 7), again=said(1, 4)) == 4


def test_who_is_silent_is_blind_and_then_gone() -> None:
    merge = Merge()
    merge.take({"one": said(1, 0), "two": said(1, 0)}, 0.0)
    merge.take({"one": said(2, 0), "two": said(1, 0)}, 3.0)
    assert (merge.known, merge.blind(3.0)) == (2, 1)
    assert merge.forget(121.0) == ["two"]


def test_who_cannot_be_read_is_blind_and_who_has_left_is_not() -> None:
    merge = Merge()
    merge.take({"one": said(1, 0)}, 0.0, unreadable=["two"])
    merge.take({"one": said(2, 0)}, 3.0, unreadable=["two"])
    assert (merge.known, merge.blind(3.0)) == (2, 1)
    merge.take({"one": said(3, 0)}, 3.25)
    assert (merge.known, merge.blind(3.25)) == (1, 0)


def test_of_a_worker_that_was_started_again_its_last_process_counts() -> None:
    merge = Merge()
    merge.take({"w:1": said(1, 0)}, 0.0)
    merge.take({"w:1": said(1, 0), "w:2": said(1, 0)}, 10.0)
    assert (merge.known, merge.blind(10.0)) == (1, 0)


def test_what_hangs_counts_while_it_is_fresh() -> None:
    merge = Merge()
    merge.take({"one": Report(1, {}, {"a": [3, 1]}), "two": Report(1, {}, {"a": [2, 0]})}, 0.0)
    assert merge.hanging("a", 1.0) == (5, 1)
    assert merge.hanging("a", 3.0) == (0, 0)


def test_durations_of_all_are_added_and_stay_when_one_leaves() -> None:
    durations = Durations()
    durations.take("own", {"old": [5, 2]}, is_own=True)
    durations.take("other", {"old": [5, 100]})
    durations.take("other", {"old": [5, 101, 7, 1], "new": [9, 4]})
    assert (durations.old.total, durations.new.total) == (4, 4)
    durations.keep(["own"])
    assert durations.old.total == 4
    durations.take("other", {"old": [5, 200]})
    assert durations.old.total == 4


def test_a_bucket_that_does_not_exist_counts_nothing() -> None:
    durations = Durations()
    durations.take("own", {"new": [352, 4, 351, 1], "elsewhere": [1, 1]}, is_own=True)
    assert durations.new.total == 1


def test_who_counts_down_takes_nothing_away() -> None:
    merge = Merge()
    merge.take({"one": said(9, 50), "two": said(9, 50)}, 0.0)
    assert taken(merge, 0.25, one=said(10, 40), two=said(10, 57)) == 7


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), st.integers(0, 351), st.integers(0, 9)), max_size=40))
def test_sums_never_shrink(steps: list[tuple[str, int, int]]) -> None:
    durations, counts = Durations(), dict[tuple[str, int], int]()
    before = 0
    for process, bucket, more in steps:
        counts[process, bucket] = counts.get((process, bucket), 0) + more
        pairs = [n for (name, at), count in counts.items() if name == process for n in (at, count)]
        durations.take(process, {"new": pairs}, is_own=True)
        assert durations.new.total >= before
        before = durations.new.total
    assert before == sum(counts.values())
