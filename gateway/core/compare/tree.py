"""Walks two JSON values side by side, once, and names every place where they differ.

Linear in the size of both: arrays are compared item by item, as bags, or paired by a member; never by edit distance.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from gateway.core.compare.json_value import canonical
from gateway.core.compare.rules import ITEMS, ComparisonRules, Node, Rule, RuleTree
from gateway.core.compare.shapes import family_of, is_same_shape, shape_of, time_of, type_of

MOST: Final = 100
"""Differences that are named; beyond it the rest is counted."""
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_SECRETIVE: Final = re.compile(r"\d{6,}|[0-9a-fA-F-]{16,}")
_DIGEST_BYTES: Final = 8
_CONTAINERS: Final = (dict, list)


class Kind(StrEnum):
    """How two parts differ."""

    MISSING = "missing"
    """The other side lacks it."""
    EXTRA = "extra"
    """Only the other side has it."""
    TYPE = "type"
    VALUE = "value"
    ORDER = "order"
    """The same items in another order."""
    LENGTH = "length"
    STATUS = "status"
    HEADER = "header"
    BODY = "body"
    """Bytes that are not walked."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two answers differ. Holds no value of either.

    Attributes:
        path: `$.commits[*].date`; members whose names may be data read `*`.
        kind: How.
        left: Shape of the serving side's part, or empty.
        right: Shape of the other side's.
        left_digest: HMAC of it: equal digests stand for equal values.
        right_digest: Likewise.
    """

    path: str
    kind: Kind
    left: str = ""
    right: str = ""
    left_digest: str = ""
    right_digest: str = ""

    def document(self) -> dict[str, str]:
        """For JSON."""
        return {
            "path": self.path,
            "kind": self.kind.value,
            "left": self.left,
            "right": self.right,
            "left_digest": self.left_digest,
            "right_digest": self.right_digest,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, str]) -> Difference:
        """Reads what `document` wrote."""
        return cls(**{**document, "kind": Kind(document["kind"])})  # type: ignore[arg-type]  # the members of the class


class Walk:
    """Compares two values.

    Attributes:
        differences: What was found, at most `MOST`.
        unnamed: How many more.
    """

    def __init__(self, rules: ComparisonRules, tree: RuleTree, secret: bytes) -> None:
        """Finds nothing yet.

        Args:
            rules: Of the operation.
            tree: `rules.tree()`.
            secret: Key of the digests.
        """
        self._tree = tree
        self._loose = rules.loose_numbers
        self._secret = secret
        self._steps: list[str] = []
        self.differences: list[Difference] = []
        self.unnamed = 0

    def compare(self, left: Any, right: Any) -> None:  # noqa: ANN401 - any JSON value
        """Compares two whole values."""
        self._compare(left, right, self._tree.root)

    def found(self, path: str, kind: Kind, left: Any = None, right: Any = None) -> None:  # noqa: ANN401
        """Notes a difference."""
        if len(self.differences) >= MOST:
            self.unnamed += 1
            return
        if kind is Kind.STATUS:
            self.differences.append(Difference(path, kind, str(left), str(right)))
            return
        has_left, has_right = kind is not Kind.EXTRA, kind is not Kind.MISSING
        self.differences.append(
            Difference(
                path,
                kind,
                shape_of(left) if has_left else "",
                shape_of(right) if has_right else "",
                self._digest(left) if has_left else "",
                self._digest(right) if has_right else "",
            )
        )

    # ---------------------------------------------------------------------------------------------------------------

    def _compare(self, left: Any, right: Any, node: Node | None) -> None:  # noqa: ANN401
        rule = node.rule if node is not None else None
        if rule is not None and rule.ignore:
            return
        if isinstance(left, dict) and isinstance(right, dict):
            self._objects(left, right, node)
        elif isinstance(left, list) and isinstance(right, list):
            self._arrays(left, right, node, rule)
        elif not self._equal(left, right, rule):
            same_type = type_of(left) == type_of(right) or (_is_number(left) and _is_number(right) and self._loose)
            self.found(self._path(), Kind.VALUE if same_type else Kind.TYPE, left, right)

    def _path(self, *more: str) -> str:
        """Where the walk is. Put together for a difference alone: nearly all parts have none."""
        steps = (step if step == ITEMS else f".{shown(step)}" for step in (*self._steps, *more))
        return "$" + "".join(steps)

    def _objects(self, left: dict[str, Any], right: dict[str, Any], node: Node | None) -> None:
        member, steps = self._tree.member, self._steps
        has_rules = node is not None or bool(self._tree.deep)
        for name, value in left.items():
            if name not in right:
                if not (has_rules and _may_lack(member(node, name))):
                    self.found(self._path(name), Kind.MISSING, left=value)
                continue
            other = right[name]
            # A plain part that is equal needs neither rule nor path.
            if type(value) is not type(other) or value.__class__ in _CONTAINERS or value != other:
                steps.append(name)
                self._compare(value, other, member(node, name) if has_rules else None)
                steps.pop()
        if len(right) == len(left) and left.keys() == right.keys():
            return
        for name, value in right.items():
            if name not in left and not (has_rules and _may_lack(member(node, name))):
                self.found(self._path(name), Kind.EXTRA, right=value)

    def _arrays(self, left: list[Any], right: list[Any], node: Node | None, rule: Rule | None) -> None:
        below = node.items if node is not None else None
        if rule is not None and rule.keyed is not None:
            self._keyed(left, right, below, rule.keyed)
            return
        if rule is not None and rule.unordered:
            self._bags(left, right, below)
            return
        if len(left) != len(right):
            self.found(self._path(), Kind.LENGTH, left, right)
        begun = len(self.differences)
        self._items(left, right, below)
        if len(self.differences) > begun and len(left) == len(right) and self._is_permuted(left, right, below):
            del self.differences[begun:]
            self.found(self._path(), Kind.ORDER, left, right)

    def _items(self, left: Iterable[Any], right: Iterable[Any], below: Node | None) -> None:
        self._steps.append(ITEMS)
        for one, other in zip(left, right, strict=False):
            if type(one) is not type(other) or one.__class__ in _CONTAINERS or one != other:
                self._compare(one, other, below)
        self._steps.pop()

    def _is_permuted(self, left: list[Any], right: list[Any], below: Node | None) -> bool:
        return self._bag(left, below) == self._bag(right, below)

    def _bags(self, left: list[Any], right: list[Any], below: Node | None) -> None:
        if self._bag(left, below) == self._bag(right, below):
            return
        if len(left) != len(right):
            self.found(self._path(), Kind.LENGTH, left, right)
            return
        # Paired in the order of their content, so that what differs is named inside the items.
        self._items(sorted(left, key=canonical), sorted(right, key=canonical), below)

    def _bag(self, items: list[Any], below: Node | None) -> Counter[bytes]:
        return Counter(canonical(self._reduced(item, below)) for item in items)

    def _reduced(self, value: Any, node: Node | None) -> Any:  # noqa: ANN401
        """A value with every relaxed part replaced by its shape, so that bags can be compared."""
        if node is None and not self._tree.deep:
            return value
        rule = node.rule if node is not None else None
        if rule is not None and rule.ignore:
            return None
        if isinstance(value, dict):
            below = {name: self._tree.member(node, name) for name in value}
            return {
                name: self._reduced(inner, below[name]) for name, inner in value.items() if not _may_lack(below[name])
            }
        if isinstance(value, list):
            return [self._reduced(inner, node.items if node is not None else None) for inner in value]
        return family_of(value) if rule is not None and rule.shape else value

    def _keyed(self, left: list[Any], right: list[Any], below: Node | None, key: str) -> None:
        mine, theirs = _by_member(left, key), _by_member(right, key)
        if mine is None or theirs is None:
            # An item without the member, or two with the same one: nothing to pair by.
            self.found(self._path(), Kind.VALUE, left, right)
            return
        paired = [name for name in mine if name in theirs]
        self._items((mine[name] for name in paired), (theirs[name] for name in paired), below)
        for name, item in mine.items():
            if name not in theirs:
                self.found(self._path(ITEMS), Kind.MISSING, left=item)
        for name, item in theirs.items():
            if name not in mine:
                self.found(self._path(ITEMS), Kind.EXTRA, right=item)

    def _equal(self, left: Any, right: Any, rule: Rule | None) -> bool:  # noqa: ANN401
        if rule is not None and rule.shape and is_same_shape(shape_of(left), shape_of(right)):
            return True
        if _is_number(left) and _is_number(right):
            if type(left) is not type(right) and not self._loose and not _has_tolerance(rule):
                return False
            return bool(left == right) or (rule is not None and _is_near(left, right, rule))
        if type(left) is not type(right):
            return False
        if left == right:
            return True
        if rule is not None and rule.within_s is not None:
            one, other = time_of(left), time_of(right)
            return one is not None and other is not None and abs(one - other) <= rule.within_s
        return False

    def _digest(self, value: Any) -> str:  # noqa: ANN401
        return hmac.new(self._secret, canonical(value), sha256).hexdigest()[: 2 * _DIGEST_BYTES]


def leaf_paths(value: Any, limit: int = 1000) -> set[str]:  # noqa: ANN401 - any JSON value
    """The paths of all parts that are neither objects nor filled arrays."""
    found: set[str] = set()
    for path in _leaves(value):
        found.add(path)
        if len(found) >= limit:
            break
    return found


def _leaves(value: Any) -> Iterator[str]:  # noqa: ANN401
    level = [("$", value)]
    while level:
        path, part = level.pop()
        if isinstance(part, dict) and part:
            level += [(f"{path}.{shown(name)}", inner) for name, inner in part.items()]
        elif isinstance(part, list) and part:
            level += [(f"{path}[*]", inner) for inner in part]
        else:
            yield path


def shown(name: str) -> str:
    """A member's name where it is one of the schema's; `*` where it may be data."""
    return name if _PLAIN_NAME.fullmatch(name) and not _SECRETIVE.search(name) else "*"


def _may_lack(node: Node | None) -> bool:
    return node is not None and node.rule is not None and (node.rule.optional or node.rule.ignore)


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _has_tolerance(rule: Rule | None) -> bool:
    return rule is not None and (rule.abs_tolerance is not None or rule.rel_tolerance is not None)


def _is_near(left: int | Decimal, right: int | Decimal, rule: Rule) -> bool:
    one, other = Decimal(left), Decimal(right)
    allowed = Decimal(rule.abs_tolerance or 0)
    if rule.rel_tolerance is not None:
        allowed = max(allowed, Decimal(rule.rel_tolerance) * max(abs(one), abs(other)))
    return abs(one - other) <= allowed


def _by_member(items: list[Any], key: str) -> dict[bytes, Any] | None:
    found: dict[bytes, Any] = {}
    for item in items:
        if not isinstance(item, dict) or key not in item:
            return None
        name = canonical(item[key])
        if name in found:
            return None
        found[name] = item
    return found
