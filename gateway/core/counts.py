"""Arithmetic of nested counts, as processes report them: operation -> side -> outcome -> number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Counts = dict[str, Any]


def add(left: Mapping[str, Any], right: Mapping[str, Any]) -> Counts:
    """Adds numbers member by member, at any depth."""
    total = dict(left)
    for name, value in right.items():
        if isinstance(value, Mapping):
            total[name] = add(total.get(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value
    return total


def subtract(left: Mapping[str, Any], right: Mapping[str, Any]) -> Counts:
    """Subtracts numbers member by member, at any depth; zeros are left out."""
    rest: Counts = {}
    for name, value in left.items():
        if isinstance(value, Mapping):
            inner = subtract(value, right.get(name, {}))
            if inner:
                rest[name] = inner
        elif difference := value - right.get(name, 0):
            rest[name] = difference
    return rest


def share_of_new(sides: Mapping[str, Any]) -> float | None:
    """Which share of an operation's requests `new` answered, 0-1; None when there were none.

    Args:
        sides: The operation's part of some counts.
    """
    asked = {side: sum(sides.get(side, {}).get("outcomes", {}).values()) for side in ("old", "new")}
    total = asked["old"] + asked["new"]
    return asked["new"] / total if total else None
