"""A walk over two values, for tests."""

from __future__ import annotations

from typing import Any

from gateway.core.compare.rule_tree import RuleTree
from gateway.core.compare.rules import ComparisonRules
from gateway.core.compare.tree import Walk


def walked(left: Any, right: Any, *, is_learning: bool = False, **rules: Any) -> Walk:
    compared = ComparisonRules(**rules)
    walk = Walk(compared, RuleTree.of(compared), b"secret", is_learning=is_learning)
    walk.compare(left, right)
    return walk


def found(left: Any, right: Any, **rules: Any) -> list[tuple[str, str]]:
    return [(difference.path, difference.kind.value) for difference in walked(left, right, **rules).noted]
