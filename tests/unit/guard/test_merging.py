"""What workers report is added up once, whatever is lost, said twice or begun anew."""

from __future__ import annotations

from gateway.core.detect.guard import Counted
from gateway.guard.merging import Merge, merge_histograms


def said(n: int) -> dict[str, list[int]]:
    return {"a": [n, 0, n, 0, 0, 0]}


def test_a_past_is_no_news() -> None:
    merge = Merge()
    assert merge.take({"one": (400, said(1000))}, 0.0) == {"a": Counted()}
    assert merge.take({"one": (401, said(1010))}, 0.25) == {"a": Counted(n=10, timed=10)}
    # One that could not be heard until now.
    assert merge.take({"one": (401, said(1010)), "two": (900, said(5000))}, 0.5) == {"a": Counted()}


def test_what_is_said_twice_lost_or_begun_anew_counts_once() -> None:
    merge = Merge()
    merge.take({"one": (1, said(0))}, 0.0)
    assert merge.take({"one": (3, said(7))}, 0.5)["a"].n == 7
    assert merge.take({"one": (3, said(7))}, 0.75) == {}
    assert merge.take({"one": (2, said(5))}, 1.0) == {}
    assert merge.take({"one": (3, said(7)), "again": (1, said(4))}, 1.25)["a"].n == 4


def test_who_is_silent_is_blind_and_then_gone() -> None:
    merge = Merge()
    merge.take({"one": (1, said(0)), "two": (1, said(0))}, 0.0)
    merge.take({"one": (2, said(0)), "two": (1, said(0))}, 3.0)
    assert merge.blind(3.0) == 1
    assert merge.forget(121.0) == ["two"]


def test_histograms_of_all_are_added() -> None:
    found = merge_histograms({"one": {"a": {"old": {"5": 2}}}, "two": {"a": {"old": {"5": 1, "7": 1}, "new": {}}}})
    assert (found["a"]["old"].total, found["a"]["new"].total) == (4, 0)
