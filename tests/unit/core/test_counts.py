"""Nested counts: added and subtracted member by member."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.counts import add, share_of_new, subtract

NAMES = st.sampled_from(["a", "b", "c"])
COUNTS = st.dictionaries(
    NAMES, st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(1, 9), min_size=1), min_size=1)
)


@given(COUNTS, COUNTS)
def test_subtracting_undoes_adding(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert subtract(add(left, right), right) == left


@given(COUNTS, COUNTS)
def test_the_order_does_not_matter_and_nothing_is_changed_in_place(left: dict[str, Any], right: dict[str, Any]) -> None:
    before = repr((left, right))
    assert add(left, right) == add(right, left)
    assert repr((left, right)) == before


@pytest.mark.parametrize(
    ("sides", "share"),
    [
        ({}, None),
        ({"none": {"outcomes": {"refused": 5}}}, None),
        ({"old": {"outcomes": {"ok": 3}}}, 0.0),
        ({"old": {"outcomes": {"ok": 2, "failure": 1}}, "new": {"outcomes": {"ok": 1}}}, 0.25),
        ({"new": {"outcomes": {"ok": 1}}}, 1.0),
    ],
)
def test_the_share_of_new_counts_what_was_sent_to_sides(sides: dict[str, Any], share: float | None) -> None:
    assert share_of_new(sides) == share
