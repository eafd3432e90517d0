"""Arrays in any order: what is the same whatever stands in them, and what is named of the rest."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.compare.json_value import parse
from gateway.core.compare.rules import Relax, Rule
from tests.unit.core.compare.walking import found

BAG = Rule(unordered=True)


@pytest.mark.parametrize(
    ("rules", "left", "right"),
    [
        ({"$[*]": BAG}, "[[1, 2], [3, 4]]", "[[4, 3], [2, 1]]"),
        ({"$[*].tags": BAG}, '[{"tags": ["a", "b"]}, {"tags": []}]', '[{"tags": []}, {"tags": ["b", "a"]}]'),
        (
            {"$[*].at": Rule(within_s=5)},
            '[{"n": 1, "at": "2026-01-01T00:00:09Z"}, {"n": 2, "at": "2026-01-01T00:00:00Z"}]',
            '[{"n": 2, "at": "2026-01-01T00:00:03Z"}, {"n": 1, "at": "2026-01-01T00:00:07Z"}]',
        ),
        ({"$[*]": Rule(abs_tolerance="1")}, "[9, 100, 55]", "[55.5, 10, 99]"),
        ({"$[*].v": Rule(abs_tolerance="1")}, '[{"v": 9}, {"v": 100}]', '[{"v": 99}, {"v": 10}]'),
        ({"$[*].w": Rule(optional=True)}, '[{"n": 1, "w": 5}, {"n": 1}]', '[{"n": 1, "w": 7}, {"n": 1, "w": 5}]'),
        (
            {"$[*].w": Rule(nullable=True)},
            '[{"n": 1, "w": 5}, {"n": 2, "w": 6}]',
            '[{"n": 2, "w": null}, {"n": 1, "w": 5}]',
        ),
        ({"$[*].k": Rule(keyed="id")}, '[{"k": [{"id": 1}, {"id": 2}]}, 1]', '[1, {"k": [{"id": 2}, {"id": 1}]}]'),
        ({"$[*].t": Rule(normalise=("sha",))}, '[{"t": "is a1b2c3d"}, 1]', '[1, {"t": "is d4e5f6a"}]'),
        ({"$[*].t": Rule(form="uuid")}, "[1, 2]", "[2, 1]"),
        ({"$[*].t": Rule(ignore=True)}, '[{"t": 1, "n": 1}, {"n": 2}]', '[{"n": 2, "t": 3}, {"n": 1}]'),
    ],
)
def test_the_same_in_another_order(rules: dict[str, Rule], left: str, right: str) -> None:
    assert found(parse(left), parse(right), by_path={"$": BAG, **rules}) == []


def test_a_whole_number_is_a_decimal_one_where_numbers_are_loose() -> None:
    assert found(parse('[{"n": 1}, 2]'), parse('[2.0, {"n": 1.0}]'), by_path={"$": BAG}, loose_numbers=True) == []
    assert found(parse("[1, 2]"), parse("[2.0, 1]"), by_path={"$": BAG}) != []


def test_a_number_is_not_the_text_that_stands_for_it() -> None:
    assert found(parse("[1.5, 2]"), parse('[2, "15e-1"]'), by_path={"$": BAG}) == [("$[*]", "type")]


def test_a_member_that_may_be_missing_must_agree_where_it_is_there() -> None:
    rules: dict[str, Any] = {"relaxed": {"$": Relax.ORDER, "$[*].w": Relax.PRESENCE}}
    left = [{"n": 1, "w": 5}, {"n": 2, "w": 6}]
    assert found(left, [{"n": 2, "w": 6}, {"n": 1}], **rules) == []
    assert found(left, [{"n": 2, "w": 6}, {"n": 1, "w": 999}], **rules) == [("$[*].w", "value")]


def test_what_differs_is_named_inside_the_items() -> None:
    left = [{"sku": f"s{n}", "count": n, "ok": True} for n in range(5)]
    for name, value in (("sku", "other"), ("count", 12), ("ok", False)):
        right = deepcopy(left[::-1])
        right[2][name] = value
        assert found(left, right, by_path={"$": BAG}) == [(f"$[*].{name}", "value")]


def test_relaxed_values_are_still_looked_at() -> None:
    rules: dict[str, Any] = {"relaxed": {"$": Relax.ORDER, "$[*].at": Relax.SHAPE}}
    left = [{"n": n, "at": f"2026-01-01T00:00:0{n}Z"} for n in range(3)]
    right = [{"n": n, "at": f"2026-01-01T00:01:0{n}Z"} for n in (2, 0, 1)]
    assert found(left, right, **rules) == []
    right[1]["at"] = "1970-01-01T00:00:00Z"
    assert found(left, right, **rules) == [("$[*].at", "value")]
    right[1]["at"] = 5
    assert found(left, right, **rules) == [("$[*].at", "type")]


def test_items_that_are_told_apart_by_nothing_exact_are_matched() -> None:
    rules: dict[str, Any] = {"by_path": {"$": BAG, "$[*].*": Rule(abs_tolerance="2")}}
    left, right = [{"a": 0, "b": 9}, {"a": 2, "b": 0}], [{"a": 1, "b": 1}, {"a": 1, "b": 8}]
    assert found(left, right, **rules) == []
    assert found(left, [{"a": 1, "b": 1}, {"a": 1, "b": 1}], **rules) != []


def test_a_rule_at_any_depth_leaves_what_was_learnt_of_the_items() -> None:
    rules: dict[str, Any] = {"by_path": {"$..items": Rule(keyed="id")}, "relaxed": {"$.items[*].at": Relax.SHAPE}}
    assert found({"items": [{"id": 1, "at": "ab1"}]}, {"items": [{"id": 1, "at": "cd2"}]}, **rules) == []


def test_a_longer_array_holds_the_shorter_one() -> None:
    longer = {"relaxed": {"$": Relax.LENGTH}}
    assert found([1, 2, 3], [2, 3], **longer) == []
    assert found([1, 2], [1, 2, 3], **longer) == []
    assert found([1, 2, 4], [1, 4], **longer) == []
    assert found([1, 2, 3], [3, 2], **longer) != []
    assert found([1, 2, 3], [1, 9], **longer) == [("$[*]", "value")]
    bag = {"relaxed": {"$": Relax.LENGTH | Relax.ORDER}}
    assert found([1, 2, 3], [3, 2], **bag) == []
    assert found([1, 3], [3, 2, 1], **bag) == []
    assert found([1, 2, 3], [3, 9], **bag) != []
    keyed = {"by_path": {"$": Rule(keyed="id", any_length=True)}}
    assert found([{"id": 1}], [{"id": 2}, {"id": 1}], **keyed) == []
    assert found([{"id": 3}], [{"id": 2}, {"id": 1}], **keyed) == [("$[*]", "missing")]


def test_an_array_that_is_not_longer_must_agree() -> None:
    assert found([1, 2], [1, 3], relaxed={"$": Relax.LENGTH}) == [("$[*]", "value")]


Values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from([parse("1.5"), parse("1.0"), "15e-1", "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
Rules = st.dictionaries(
    st.sampled_from(["$", "$[*]", "$..a", "$[*].b", "$.*", "$[*][*]"]),
    st.builds(
        Rule,
        unordered=st.booleans(),
        optional=st.booleans(),
        nullable=st.booleans(),
        shape=st.booleans(),
        any_length=st.booleans(),
        abs_tolerance=st.none() | st.just("1"),
    ),
    max_size=4,
)


@given(st.lists(Values, max_size=6), Rules, st.booleans(), st.randoms(use_true_random=False))
def test_no_order_of_an_unordered_array_differs(
    items: list[Any], rules: dict[str, Rule], loose: bool, rng: random.Random
) -> None:
    moved = deepcopy(items)
    rng.shuffle(moved)
    rules = {**rules, "$": rules.get("$", BAG).joined(BAG)}
    assert found(items, moved, by_path=rules, loose_numbers=loose) == []


@given(Values, Rules)
def test_a_value_equals_itself_under_any_rules(value: Any, rules: dict[str, Rule]) -> None:
    assert found(value, deepcopy(value), by_path=rules) == []
