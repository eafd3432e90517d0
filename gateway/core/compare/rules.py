"""What comparison lets pass: rules by path, compiled into a tree that is walked beside the values.

A path is `$`, then `.name`, `.*` (any member) or `[*]` (any item), such as `$.commits[*].date`; `$..name` is that
member at any depth. Where a name and `*` both fit, the name counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Self

_STEP: Final = re.compile(r"\.\.(?P<deep>[^.\[\]]+)$|\.(?P<member>[^.\[\]]+)|(?P<items>\[\*\])")
_LONGEST: Final = 512

DEFAULT_HEADERS: Final = ("content-type", "location", "cache-control", "content-language")


class PathError(ValueError):
    """A path cannot be read."""


class Relax(StrEnum):
    """What was learnt, and accepted, about a volatile part. Nothing is ever left out: its shape must still agree."""

    SHAPE = "shape"
    """The value differs from call to call: type and form must agree."""
    ORDER = "order"
    """Items come in any order."""
    PRESENCE = "presence"
    """It may be missing on either side."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one part is compared.

    Attributes:
        ignore: Not at all. For operators alone; learning never proposes it.
        unordered: An array is a bag of items.
        keyed: An array's items are paired by this member.
        optional: It may be missing.
        shape: Type and form must agree, not the value.
        abs_tolerance: Numbers may differ by so much.
        rel_tolerance: Or by this share of the greater.
        within_s: Times may be so far apart, in seconds.
    """

    ignore: bool = False
    unordered: bool = False
    keyed: str | None = None
    optional: bool = False
    shape: bool = False
    abs_tolerance: str | None = None
    rel_tolerance: str | None = None
    within_s: float | None = None

    def joined(self, other: Rule) -> Rule:
        """Both at once; where both name a value, the other's."""
        mine, theirs = asdict(self), asdict(other)
        return Rule(**{name: theirs[name] or mine[name] for name in mine})


@dataclass(frozen=True, slots=True)
class ComparisonRules:
    """How the answers of one operation are compared.

    Attributes:
        by_path: Rules of the migration file.
        headers: Names, lower-case, that must agree.
        equal_statuses: Sets of status codes that count as one.
        incomparable_codes: Codes of errors that only say that one side does not know what was asked for.
        loose_numbers: `1` equals `1.0`.
        is_comparable: False: the operation is declared not comparable.
        relaxed: What was learnt and accepted, by path.
    """

    by_path: Mapping[str, Rule] = field(default_factory=dict)
    headers: tuple[str, ...] = DEFAULT_HEADERS
    equal_statuses: tuple[frozenset[int], ...] = ()
    incomparable_codes: frozenset[str] = frozenset()
    loose_numbers: bool = False
    is_comparable: bool = True
    relaxed: Mapping[str, Relax] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For JSON; `from_document` reads it."""
        return {
            "by_path": {path: asdict(rule) for path, rule in self.by_path.items()},
            "headers": list(self.headers),
            "equal_statuses": [sorted(group) for group in self.equal_statuses],
            "incomparable_codes": sorted(self.incomparable_codes),
            "loose_numbers": self.loose_numbers,
            "is_comparable": self.is_comparable,
            "relaxed": {path: relax.value for path, relax in self.relaxed.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Reads what `document` wrote."""
        return cls(
            by_path={path: Rule(**rule) for path, rule in document["by_path"].items()},
            headers=tuple(document["headers"]),
            equal_statuses=tuple(frozenset(group) for group in document["equal_statuses"]),
            incomparable_codes=frozenset(document["incomparable_codes"]),
            loose_numbers=document["loose_numbers"],
            is_comparable=document["is_comparable"],
            relaxed={path: Relax(relax) for path, relax in document["relaxed"].items()},
        )

    def relaxed_by(self, learnt: Mapping[str, Relax]) -> Self:
        """The same with more relaxations."""
        return replace(self, relaxed={**self.relaxed, **learnt})

    @property
    def version(self) -> str:
        """Names these rules: a digest of all of them."""
        text = json.dumps(self.document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def tree(self) -> RuleTree:
        """Compiled for a walk."""
        tree = RuleTree()
        for path, rule in self.by_path.items():
            tree.put(split_path(path), rule)
        for path, relax in self.relaxed.items():
            tree.put(split_path(path), _AS_RULE[relax])
        return tree


_AS_RULE: Final = {
    Relax.SHAPE: Rule(shape=True),
    Relax.ORDER: Rule(unordered=True),
    Relax.PRESENCE: Rule(optional=True),
}


class Node:
    """The rules for one part and for what is below it.

    Attributes:
        rule: Of the part itself, or None.
        members: Below it, by name; `*` for any other.
        items: Of an array's items, or None.
    """

    __slots__ = ("items", "members", "rule")

    def __init__(self) -> None:
        self.rule: Rule | None = None
        self.members: dict[str, Node] = {}
        self.items: Node | None = None


class RuleTree:
    """All rules of an operation.

    Attributes:
        root: Of the whole value.
        deep: Of members at any depth, by name; they come first.
    """

    __slots__ = ("deep", "root")

    def __init__(self) -> None:
        self.root = Node()
        self.deep: dict[str, Node] = {}

    def put(self, steps: Iterable[str], rule: Rule) -> None:
        """Adds a rule."""
        node = self.root
        for step in steps:
            if step == ITEMS:
                node.items = node.items or Node()
                node = node.items
            elif step.startswith(".."):
                node = self.deep.setdefault(step[2:], Node())
            else:
                node = node.members.setdefault(step, Node())
        node.rule = rule if node.rule is None else node.rule.joined(rule)

    def member(self, node: Node | None, name: str) -> Node | None:
        """What is known of a member of the part at `node`."""
        if self.deep and name in self.deep:
            return self.deep[name]
        return None if node is None else node.members.get(name) or node.members.get("*")


ITEMS: Final = "[*]"


def split_path(path: str) -> list[str]:
    """The steps of a path.

    Raises:
        PathError: It is none.
    """
    if not path.startswith("$") or len(path) > _LONGEST:
        raise PathError(f'"{path[:80]}" is no path; write such as $.commits[*].date or $..updated_at')
    steps: list[str] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or (found["deep"] and at != 1):
            raise PathError(f'"{path[:80]}" is no path; write such as $.commits[*].date or $..updated_at')
        steps.append(f"..{found['deep']}" if found["deep"] else found["member"] or ITEMS)
        at = found.end()
    return steps
