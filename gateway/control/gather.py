"""Tells once what happened to a whole group: its operations that share stage and percent move as one. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.model import Definition
from gateway.core.rules import Delta
from gateway.core.snapshot import is_bound

Found = dict[str, dict[str, Delta]]
"""Target (`operation NAME` or `group NAME`) -> field -> before and after."""


def gather(definition: Definition, found: Mapping[str, Mapping[str, Delta]]) -> Found:
    """The same differences, those of bound operations under the name of their group where they are all alike."""
    gathered = {target: dict(fields) for target, fields in found.items()}
    for group in definition.groups.values():
        bound = [f"operation {name}" for name in group.operations if is_bound(group, definition.operations[name])]
        if not bound:
            continue
        for field, delta in dict(gathered.get(bound[0], {})).items():
            if all(gathered.get(target, {}).get(field) == delta for target in bound):
                for target in bound:
                    del gathered[target][field]
                gathered.setdefault(f"group {group.name}", {})[field] = delta
    return {target: fields for target, fields in gathered.items() if fields}


def flatten(found: Mapping[str, Mapping[str, Delta]]) -> dict[str, Delta]:
    """As `TARGET: FIELD` -> before and after."""
    return {f"{target}: {field}": delta for target, fields in found.items() for field, delta in fields.items()}


def unflatten(fields: Mapping[str, Delta]) -> Found:
    """The way back."""
    found: Found = {}
    for name, delta in fields.items():
        target, _, field = name.rpartition(": ")
        found.setdefault(target, {})[field] = delta
    return found
