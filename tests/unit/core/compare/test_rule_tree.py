"""Which rules count for a part."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.compare.rule_tree import Place, RuleTree
from gateway.core.compare.rules import ComparisonRules, Relax, Rule

IGNORE, SHAPE = Rule(ignore=True), Rule(shape=True)


def rule_at(path: str, **rules: Any) -> Rule | None:
    return RuleTree.of(ComparisonRules(**rules)).at(path)


def test_without_rules_nothing_is_walked() -> None:
    assert RuleTree.of(ComparisonRules()).root is None
    tree = RuleTree.of(ComparisonRules(by_path={"$.a.b": SHAPE}))
    assert tree.root is not None
    assert tree.root.member("x") is None
    assert tree.at("$.a") is None


@pytest.mark.parametrize(
    ("written", "path", "fits"),
    [
        ("$", "$", True),
        ("$.a", "$.a", True),
        ("$.a", "$.b", False),
        ("$.*", "$.a", True),
        ("$.*", "$.{}", True),
        ("$.{}", "$.{}", True),
        ("$.{}", "$.a", False),
        ("$.a[*].b", "$.a[*].b", True),
        ("$.a[*]", "$.a", False),
        ("$..b", "$.a[*].x.b", True),
        ("$..b", "$.a.b.c", False),
        ("$..{}", "$.a[*].{}", True),
        ("$..{}", "$.a[*].b", False),
        ("$..*", "$.a.b", True),
    ],
)
def test_which_parts_a_path_names(written: str, path: str, fits: bool) -> None:
    assert rule_at(path, by_path={written: SHAPE}) == (SHAPE if fits else None)
    assert rule_at(path, relaxed={written: Relax.SHAPE}) == (SHAPE if fits else None)


@pytest.mark.parametrize("name", ["größe", "a b", "a.b", "alice@example.org"])
def test_a_rule_for_hidden_names_fits_these_alone(name: str) -> None:
    """A proposal for a name that is not shown must not let every other member pass."""
    root = RuleTree.of(ComparisonRules(relaxed={"$.{}": Relax.SHAPE})).root
    assert root is not None
    hidden = root.member(name)
    assert hidden is not None
    assert hidden.rule == SHAPE
    assert root.member("count") is None


def test_a_name_may_be_written_though_it_is_not_shown() -> None:
    root = RuleTree.of(ComparisonRules(by_path={"$.größe": SHAPE, "$.{}": IGNORE})).root
    assert root is not None
    assert _rule(root.member("größe")) == SHAPE
    assert _rule(root.member("grüße")) == IGNORE


def test_of_the_file_the_name_counts_before_any_member() -> None:
    assert rule_at("$.a", by_path={"$.*": IGNORE, "$.a": SHAPE}) == SHAPE
    assert rule_at("$.b", by_path={"$.*": IGNORE, "$.a": SHAPE}) == IGNORE


def test_what_is_below_counts_from_every_path_that_fits() -> None:
    rules = {"$.a.b": Rule(optional=True), "$.*.c": SHAPE}
    assert rule_at("$.a.b", by_path=rules) == Rule(optional=True)
    assert rule_at("$.a.c", by_path=rules) == SHAPE


def test_a_rule_at_any_depth_hides_nothing() -> None:
    keyed = {"$..items": Rule(keyed="id")}
    relaxed = {"$.items[*].at": Relax.SHAPE, "$.items": Relax.LENGTH}
    assert rule_at("$.items[*].at", by_path=keyed, relaxed=relaxed) == SHAPE
    assert rule_at("$.items", by_path=keyed, relaxed=relaxed) == Rule(keyed="id", any_length=True)
    assert rule_at("$.a.items", by_path=keyed, relaxed=relaxed) == Rule(keyed="id")


def test_what_was_learnt_counts_besides_what_the_file_says() -> None:
    rule = rule_at("$.a", by_path={"$.*": Rule(optional=True)}, relaxed={"$.a": Relax.SHAPE | Relax.NULL})
    assert rule == Rule(optional=True, shape=True, nullable=True)


def test_a_tolerance_of_nothing_is_one() -> None:
    assert Rule(within_s=5).joined(Rule(within_s=0.0)).within_s == 0


def test_as_many_places_are_remembered_as_the_rules_name() -> None:
    root = RuleTree.of(ComparisonRules(by_path={"$..x": SHAPE, "$.{}": SHAPE, "$.*.y": SHAPE})).root
    assert root is not None
    for n in range(1000):
        assert root.member(f"a{n}") is root.member("b")
        assert root.member(f"{n} a") is root.member("c d")


def _rule(place: Place | None) -> Rule | None:
    return None if place is None else place.rule
