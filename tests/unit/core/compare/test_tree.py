"""The walk: what differs, where, and what each rule lets pass."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.compare.json_value import canonical, parse
from gateway.core.compare.rule_tree import RuleTree
from gateway.core.compare.rules import ComparisonRules, PathError, Relax, Rule, split_path
from gateway.core.compare.tree import MOST, Kind, Walk, leaf_paths
from tests.unit.core.compare.walking import found, walked

UUID = "6a1f1e0c-0000-4000-8000-00000000000"

Values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(Values)
def test_a_value_equals_itself(value: Any) -> None:
    assert found(value, value) == []


@given(Values, Values)
def test_what_is_not_the_same_differs(left: Any, right: Any) -> None:
    if canonical(left) != canonical(right):
        assert found(left, right)


@pytest.mark.parametrize(
    ("left", "right", "differences"),
    [
        ('{"a": 1}', '{"a": 2}', [("$.a", "value")]),
        ('{"a": 1}', '{"a": "1"}', [("$.a", "type")]),
        ('{"a": 1}', '{"a": 1.0}', [("$.a", "type")]),
        ('{"a": 1}', '{"a": true}', [("$.a", "type")]),
        ('{"a": 0}', '{"a": false}', [("$.a", "type")]),
        ('{"a": null}', "{}", [("$.a", "missing")]),
        ("{}", '{"a": null}', [("$.a", "extra")]),
        ('{"a": 1}', '{"b": 1}', [("$.a", "missing"), ("$.b", "extra")]),
        ("[1, 2]", "[2, 1]", [("$", "order")]),
        ("[1, 2]", "[1]", [("$", "length")]),
        ("[1, 2]", "[1, 3]", [("$[*]", "value")]),
        ('[{"a": 1}, {"a": 2}]', '[{"a": 2}, {"a": 1}]', [("$", "order")]),
        ('{"a": {"b": [1]}}', '{"a": {"b": {"0": 1}}}', [("$.a.b", "type")]),
        ('{"a": "x"}', '{"a": "x "}', [("$.a", "value")]),
        ('{"alice@example.org": 1}', '{"alice@example.org": 2}', [("$.{}", "value")]),
        ('{"id12345678": 1}', '{"id12345678": 2}', [("$.{}", "value")]),
    ],
)
def test_differences_have_a_path_and_a_kind(left: str, right: str, differences: list[tuple[str, str]]) -> None:
    assert found(parse(left), parse(right)) == differences


@pytest.mark.parametrize(
    ("rule", "left", "right", "passes"),
    [
        (Rule(ignore=True), "1", '"x"', True),
        (Rule(unordered=True), "[1, 2, 2]", "[2, 1, 2]", True),
        (Rule(unordered=True), "[1, 2, 2]", "[2, 1, 1]", False),
        (Rule(unordered=True), "[1, 2]", "[2]", False),
        (Rule(keyed="id"), '[{"id": 1, "v": 1}, {"id": 2, "v": 2}]', '[{"id": 2, "v": 2}, {"id": 1, "v": 1}]', True),
        (Rule(keyed="id"), '[{"id": 1, "v": 1}]', '[{"id": 1, "v": 2}]', False),
        (Rule(keyed="id"), '[{"id": 1}]', "[]", False),
        (Rule(keyed="id"), '[{"id": 1}, {"id": 1}]', '[{"id": 1}]', False),
        (Rule(keyed="id"), "[1, 2]", "[2, 1]", False),
        (Rule(form="uuid"), f'"{UUID}1"', f'"{UUID}2"', True),
        (Rule(form="uuid"), f'"{UUID}1"', '"none"', False),
        (Rule(form="uuid"), '"none"', '"none"', True),
        (Rule(form="time"), '"1970-01-01T00:00:00Z"', '"2026-01-01T00:00:00+01:00"', True),
        (Rule(form="time"), '"1970-01-01T00:00:00Z"', "0", False),
        (Rule(form="hex"), '"abc"', '"123"', True),
        (Rule(form="hex"), '"abc"', '"1234"', False),
        (Rule(form="number"), "1", "-1e30", True),
        (Rule(form="number"), "1", '"1"', False),
        (Rule(normalise=("uuid",)), f'"job {UUID}1 is done"', f'"job {UUID}2 is done"', True),
        (Rule(normalise=("uuid",)), f'"job {UUID}1 is done"', f'"job {UUID}2 failed"', False),
        (Rule(normalise=("uuid",)), f'"job {UUID}1"', "1", False),
        (
            Rule(normalise=("sha", "time")),
            '"a1b2c3d at 2026-01-01T00:00:00"',
            '"b1b2c3d at 2025-01-01T00:00:00"',
            True,
        ),
        (Rule(normalise=("sha",)), '"at a1b2c3d"', '"at a1b2c3d4"', False),
        (Rule(nullable=True), "1", "null", True),
        (Rule(nullable=True), "null", '{"a": 1}', True),
        (Rule(nullable=True), "1", "2", False),
        (Rule(loose_number=True), "1", "1.0", True),
        (Rule(loose_number=True), "1", "1.5", False),
        (Rule(loose_number=True, shape=True), "1", "1.5", True),
        (Rule(loose_number=True), "1", "true", False),
        (Rule(abs_tolerance="0.1"), "1.0", "1.1", True),
        (Rule(abs_tolerance="0.1"), "1.0", "1.11", False),
        (Rule(abs_tolerance="0.1"), "1", "1.1", True),
        (Rule(rel_tolerance="0.01"), "1000", "1010", True),
        (Rule(rel_tolerance="0.01"), "1000", "1011", False),
        (Rule(abs_tolerance="1"), "1", '"1"', False),
        (Rule(within_s=5), '"2026-01-01T00:00:00Z"', '"2026-01-01T01:00:04+01:00"', True),
        (Rule(within_s=5), '"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:06Z"', False),
        (Rule(within_s=5), '"2026-01-01T00:00:00Z"', '"soon"', False),
        (Rule(shape=True), '"2026-01-01T00:00:00Z"', '"2026-01-01T23:00:00.123456789Z"', True),
        (Rule(shape=True), '"2026-01-01T00:00:00Z"', '"2027-01-01T00:00:00Z"', False),
        (Rule(shape=True, within_s=5), '"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:06Z"', False),
        (Rule(shape=True), '"2026-01-01T00:00:00Z"', '"never"', False),
        (Rule(shape=True), "1", "2", True),
        (Rule(shape=True), "1", '"2"', False),
        (Rule(shape=True), "1", "null", False),
        (Rule(shape=True), '"x"', '""', False),
        (Rule(shape=True), f'"{"a" * 40}"', f'"{"b" * 40}"', True),
        (Rule(shape=True), f'"{"a" * 40}"', f'"{"b" * 64}"', False),
        (Rule(shape=True), f'"{"a" * 40}"', f'"{"z" * 40}"', False),
        (Rule(shape=True), '"12345678"', '"abcdef01"', True),
        (Rule(shape=True), '"6a1f1e0c-0000-4000-8000-000000000001"', '"not-a-uuid"', False),
    ],
)
def test_what_a_rule_lets_pass(rule: Rule, left: str, right: str, passes: bool) -> None:
    differences = found(parse(f'{{"part": {left}}}'), parse(f'{{"part": {right}}}'), by_path={"$.part": rule})
    assert (differences == []) is passes


def test_an_optional_part_may_be_missing_and_must_agree_where_it_is_there() -> None:
    rules = {"by_path": {"$.a": Rule(optional=True)}}
    assert found({"a": 1}, {}, **rules) == []
    assert found({}, {"a": 1}, **rules) == []
    assert found({"a": 1}, {"a": 2}, **rules) == [("$.a", "value")]


def test_rules_below_arrays_any_member_and_at_any_depth() -> None:
    left, right = {"x": [{"at": 1, "v": 1}], "y": {"z": {"at": 2}}}, {"x": [{"at": 9, "v": 1}], "y": {"z": {"at": 8}}}
    assert found(left, right, by_path={"$..at": Rule(ignore=True)}) == []
    assert found(left, right, by_path={"$.x[*].at": Rule(ignore=True)}) == [("$.y.z.at", "value")]
    assert found(left, right, by_path={"$.x[*].at": Rule(ignore=True), "$.*.z.at": Rule(ignore=True)}) == []


def test_an_unordered_array_may_hold_relaxed_parts() -> None:
    rules = {"by_path": {"$": Rule(unordered=True)}, "relaxed": {"$[*].at": Relax.SHAPE}}
    left = [{"v": 1, "at": "2026-01-01T00:00:00Z"}, {"v": 2, "at": "2026-01-01T00:00:01Z"}]
    right = [{"v": 2, "at": "2026-01-01T00:00:02Z"}, {"v": 1, "at": "2026-01-01T00:00:03Z"}]
    assert found(left, right, **rules) == []
    right[0]["v"] = 3
    assert found(left, right, **rules) != []


def test_loose_numbers() -> None:
    assert found(parse("[1]"), parse("[1.0]"), loose_numbers=True) == []
    assert found(parse("[1]"), parse("[1.5]"), loose_numbers=True) == [("$[*]", "value")]
    assert found(parse("[1]"), parse("[true]"), loose_numbers=True) == [("$[*]", "type")]


def test_the_number_of_named_differences_is_bounded() -> None:
    rules = ComparisonRules()
    walk = Walk(rules, RuleTree.of(rules), b"secret")
    walk.compare({f"m{n}": n for n in range(1000)}, {f"m{n}": n + 1 for n in range(1000)})
    assert len(walk.differences) == MOST
    assert walk.noted.unnamed == 900


def test_many_items_that_differ_in_one_way_hide_nothing() -> None:
    left = {"items": [{"at": n} for n in range(150)], "total": 1}
    right = {"items": [{"at": n + 1} for n in range(150)], "total": 2}
    assert found(left, right) == [("$.items[*].at", "value"), ("$.total", "value")]


def test_no_value_is_shown() -> None:
    canary = "s3cr3t-of-a-client"
    rules = ComparisonRules()
    walk = Walk(rules, RuleTree.of(rules), b"secret")
    walk.compare({"a": canary, canary + " ": 1, "n": 123456789}, {"a": canary + "!", "n": 1})
    assert len(walk.differences) == 3
    said = str([difference.document() for difference in walk.differences])
    assert canary not in said
    assert "123456789" not in said


@pytest.mark.parametrize("path", ["", "a", "$a", "$.", "$[0]", "$.a.", "$.a..b", "$..", "$.a[", "$" + ".a" * 400])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(PathError):
        split_path(path)


def test_leaf_paths() -> None:
    assert leaf_paths({"a": [{"b": 1}, {"c": []}], "d": {}}) == {"$.a[*].b", "$.a[*].c", "$.d"}


def test_rules_survive_their_document() -> None:
    rules = ComparisonRules(
        by_path={"$.a": Rule(keyed="id", within_s=1.5, form="hex", normalise=("sha", "uuid"))},
        equal_statuses=(frozenset({200, 204}),),
        incomparable_codes=frozenset({"unknown_workspace"}),
        relaxed={"$.b": Relax.ORDER | Relax.LENGTH},
    )
    assert ComparisonRules.from_document(json.loads(json.dumps(rules.document()))) == rules
    assert rules.version != rules.relaxed_by({"$.c": Relax.SHAPE}).version


def test_what_is_equal_to_python_is_not_the_same_json() -> None:
    """Whole parts are skipped when they are equal; to Python `1`, `1.0` and `true` are."""
    for left, right in (("1", "true"), ("1", "1.0"), ("0", "false"), ("[1, true]", "[true, 1]")):
        for shape in ('{{"a": [{}]}}', '[[{{"a": {}}}]]', '{{"a": 2.5, "b": {{"c": {}}}}}'):
            assert {kind for _, kind in found(parse(shape.format(left)), parse(shape.format(right)))} & {
                "type",
                "order",
            }


def nested(value: int, depth: int) -> Any:
    for n in range(depth):
        value = [n, value, {"n": n}]  # type: ignore[assignment]
    return value


def test_arrays_in_arrays_are_not_put_in_order_level_by_level() -> None:
    walk = walked(nested(1, 90), nested(2, 90))
    assert len(walk.differences) == 1
    assert walk.sorted_bytes == 0
    moved = walked([3, 1, 2, nested(1, 50)], [3, 2, 1, nested(1, 50)])
    assert [difference.kind for difference in moved.noted] == [Kind.ORDER]
    assert moved.sorted_bytes == len("1221")
