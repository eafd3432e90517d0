"""What workers say is read with care: anything that is no report is none, whatever it looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.detect.reports import Report, packed, report_of, unpacked

PAIRS = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 1 << 40))).map(
    lambda pairs: [number for pair in pairs for number in pair]
)


@given(st.dictionaries(st.sampled_from(["new", "old", "copied"]), PAIRS))
def test_histograms_are_read_as_they_were_told(sources: dict[str, list[int]]) -> None:
    found = unpacked(packed(sources))
    assert found is not None
    assert {source: list(pairs) for source, pairs in found.items()} == {k: v for k, v in sources.items() if v}


@given(st.binary(max_size=200))
def test_any_bytes_are_histograms_or_none(data: bytes) -> None:
    found = unpacked(data)
    assert found is None or all(pairs and not len(pairs) % 2 for pairs in found.values())


@pytest.mark.parametrize("document", [None, 7, [], [7], [7, None], ["7", {}], [True, {}], [7, {"a": [None]}], [7, []]])
def test_what_is_no_report_is_none(document: object) -> None:
    assert report_of(document) is None


def test_an_older_report_says_nothing_of_what_hangs() -> None:
    assert report_of([7, {"a": [1, 2]}]) == Report(7, {"a": [1, 2]}, {})
