"""Walks two JSON values side by side, once, and names every place where they differ.

Linear in the size of both: arrays are compared item by item, as bags, or paired by a member; never by edit distance.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

from gateway.core.compare.bags import Pairs, key_of, paired_alike, paired_by_content
from gateway.core.compare.difference import MOST, Difference, Differences, Kind
from gateway.core.compare.equality import is_equal, is_same_type
from gateway.core.compare.json_value import Json, canonical, is_identical
from gateway.core.compare.names import ITEMS, shown
from gateway.core.compare.rule_tree import Place, RuleTree
from gateway.core.compare.rules import ComparisonRules, Rule
from gateway.core.compare.shapes import is_alike, shape_of

__all__ = ["MOST", "Difference", "Kind", "Walk", "leaf_paths"]

_DIGEST_BYTES: Final = 8
_SORTED_BYTES: Final = 2 << 20
"""So much is put in order in one walk to find out that items only moved."""
_LEARNT_ITEMS: Final = 20_000
_PAIRED_ITEMS: Final = 2000
"""Longer arrays are paired as they stand: what differs is named less well."""
_MATCHED_ITEMS: Final = 16


class Walk:
    """Compares two values.

    Attributes:
        noted: What was found.
        sorted_bytes: How much was put in order to find out whether items only moved.
    """

    def __init__(self, rules: ComparisonRules, tree: RuleTree, secret: bytes, *, is_learning: bool = False) -> None:
        """Finds nothing yet.

        Args:
            rules: Of the operation.
            tree: `RuleTree.of(rules)`.
            secret: Key of the digests.
            is_learning: Whether the values are two answers of one side. Then items that only moved are told from
                changed ones though volatile parts differ in them, and nothing is said of what moved.
        """
        self._root = tree.root
        self._loose = rules.loose_numbers
        self._secret = secret
        self._is_learning = is_learning
        self._steps: list[str] = []
        self._paths: dict[tuple[str, ...], str] = {}
        self.sorted_bytes = 0
        self.noted = Differences()

    @property
    def differences(self) -> list[Difference]:
        """What was found, each place and kind once."""
        return list(self.noted)

    def compare(self, left: Json, right: Json) -> None:
        """Compares two whole values."""
        self._compare(left, right, self._root)

    def found(self, path: str, kind: Kind, left: Json = None, right: Json = None) -> None:
        """Notes a difference."""
        alike = is_alike(left, right, loose=True) if kind is Kind.VALUE else None
        if not self.noted.is_wanted(path, kind, is_alike=alike):
            return
        if kind is Kind.STATUS:
            self.noted.put(Difference(path, kind, str(left), str(right)))
            return
        has_left, has_right = kind is not Kind.EXTRA, kind is not Kind.MISSING
        self.noted.put(
            Difference(
                path,
                kind,
                shape_of(left) if has_left else "",
                shape_of(right) if has_right else "",
                self._digest(left) if has_left else "",
                self._digest(right) if has_right else "",
                alike,
            )
        )

    # ---------------------------------------------------------------------------------------------------------------

    def _compare(self, left: Json, right: Json, place: Place | None) -> None:
        rule = place.rule if place is not None else None
        if rule is not None and rule.ignore:
            return
        is_pair = left.__class__ is right.__class__
        if is_pair and left.__class__ is dict:
            self._objects(left, right, place)
        elif is_pair and left.__class__ is list:
            self._arrays(left, right, place)
        elif not is_equal(left, right, rule, loose=self._loose):
            same = is_same_type(left, right, rule, loose=self._loose)
            self.found(self._path(), Kind.VALUE if same else Kind.TYPE, left, right)

    def _path(self, *more: str) -> str:
        """Where the walk is. Put together for a difference alone: nearly all parts have none."""
        steps = (*self._steps, *more)
        path = self._paths.get(steps)
        if path is None:
            path = "$" + "".join(step if step == ITEMS else f".{shown(step)}" for step in steps)
            # The items of an array have one path; members whose names are data have many ways to say it.
            if len(self._paths) < MOST:
                self._paths[steps] = path
        return path

    def _objects(self, left: dict[str, Json], right: dict[str, Json], place: Place | None) -> None:
        steps = self._steps
        common = 0
        for name, value in left.items():
            if name not in right:
                if place is None or not _may_lack(place.member(name)):
                    self.found(self._path(name), Kind.MISSING, left=value)
                continue
            common += 1
            other = right[name]
            # A part that is equal needs neither rule nor path.
            if value is other or (value == other and is_identical(value, other)):
                continue
            steps.append(name)
            self._compare(value, other, place.member(name) if place is not None else None)
            steps.pop()
        if common == len(right):
            return
        for name, value in right.items():
            if name not in left and (place is None or not _may_lack(place.member(name))):
                self.found(self._path(name), Kind.EXTRA, right=value)

    # --- arrays ----------------------------------------------------------------------------------------------------

    def _arrays(self, left: list[Json], right: list[Json], place: Place | None) -> None:
        rule = (place.rule if place is not None else None) or _PLAIN
        below = place.items if place is not None else None
        if rule.keyed is not None:
            self._keyed(left, right, below, rule)
            return
        if len(left) != len(right) and not rule.any_length:
            self.found(self._path(), Kind.LENGTH, left, right)
            if rule.unordered or self._is_learning:
                # Which items belong together is not known.
                return
        if rule.unordered:
            self._bags(left, right, below)
        elif rule.any_length and len(left) != len(right):
            begin, end = self._common(left, right, below)
            self._items(left[begin : len(left) - end], right[begin : len(right) - end], below)
        elif self._is_learning:
            self._learn(left, right, below)
        else:
            self._ordered(left, right, below)

    def _ordered(self, left: list[Json], right: list[Json], below: Place | None) -> None:
        mark = self.noted.mark()
        differing = self._items(left, right, below)
        if len(differing) < 2 or len(left) != len(right):
            return
        # Items that moved differ where they were and where they are: the others need not be looked at.
        if self.sorted_bytes < _SORTED_BYTES and (
            below is not None or any(left[differing[0]] == right[n] for n in differing)
        ):
            mine, theirs = (self._keys((side[n] for n in differing), below) for side in (left, right))
            if mine != theirs and Counter(mine) == Counter(theirs):
                self.noted.back_to(mark)
                self.found(self._path(), Kind.ORDER, left, right)

    def _learn(self, left: list[Json], right: list[Json], below: Place | None) -> None:
        """As `_ordered`, between two answers of one side: parts of items that moved may have changed as well."""
        mark = self.noted.mark()
        if len(self._items(left, right, below)) < 2:
            return
        if len(left) > _LEARNT_ITEMS:
            # What moved and what changed cannot be told apart: nothing must be learnt of it.
            self.noted.back_to(mark)
            self.found(self._path(), Kind.VALUE, left, right)
            return
        belonging = paired_by_content(left, right, below, keeps_order=True)
        if belonging.pairs is None:
            return
        self.noted.back_to(mark)
        # Where it might as well be otherwise, other pairs will tell.
        if belonging.is_sure:
            self.found(self._path(), Kind.ORDER, left, right)

    def _items(self, left: Sequence[Json], right: Sequence[Json], below: Place | None) -> list[int]:
        """Compares items as they stand; where they differ."""
        differing = []
        self._steps.append(ITEMS)
        noted, compare = self.noted, self._compare
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            if one is other or (one == other and is_identical(one, other)):
                continue
            seen = noted.seen
            compare(one, other, below)
            if noted.seen != seen:
                differing.append(index)
        self._steps.pop()
        return differing

    def _pairs(self, left: Sequence[Json], right: Sequence[Json], pairs: Pairs, below: Place | None) -> None:
        self._items([left[one] for one, _ in pairs], [right[other] for _, other in pairs], below)

    def _keys(self, items: Iterable[Json], below: Place | None) -> list[bytes]:
        keys = [key_of(item, below, loose=self._loose) for item in items]
        self.sorted_bytes += sum(map(len, keys))
        return keys

    def _bags(self, left: list[Json], right: list[Json], below: Place | None) -> None:
        mine, theirs = self._by_key(left, below), self._by_key(right, below)
        rest: tuple[list[Json], list[Json]] = [], []
        for key, items in mine.items():
            others = theirs.pop(key, [])
            if below is not None or len(items) != len(others):
                self._group(items, others, below, rest)
        for others in theirs.values():
            rest[1].extend(others)
        if not rest[0] and not rest[1]:
            return
        self._unmatched(*rest, below)

    def _by_key(self, items: Iterable[Json], below: Place | None) -> dict[bytes, list[Json]]:
        found: dict[bytes, list[Json]] = {}
        for item in items:
            found.setdefault(key_of(item, below, loose=self._loose), []).append(item)
        return found

    def _group(
        self, left: list[Json], right: list[Json], below: Place | None, rest: tuple[list[Json], list[Json]]
    ) -> None:
        """Compares items of one key; what is left over goes to the rest."""
        if len(left) == len(right) == 1:
            self._items(left, right, below)
            return
        pairs, more, others = paired_alike(left, right)
        mark = self.noted.mark()
        seen = self.noted.seen
        self._pairs(left, right, pairs, below)
        if self.noted.seen != seen and 1 < len(pairs) <= _MATCHED_ITEMS:
            mine, theirs = [left[one] for one, _ in pairs], [right[other] for _, other in pairs]
            after = self.noted.mark()
            if self._is_matching(mine, theirs, below):
                self.noted.back_to(mark)
            else:
                self.noted.back_to(after)
        rest[0].extend(left[n] for n in more)
        rest[1].extend(right[n] for n in others)

    def _unmatched(self, left: list[Json], right: list[Json], below: Place | None) -> None:
        """Names what differs in items that have no equal on the other side."""
        pairs = [(n, n) for n in range(min(len(left), len(right)))]
        most = _LEARNT_ITEMS if self._is_learning else _PAIRED_ITEMS
        if len(left) == len(right) == 1:
            pass
        elif max(len(left), len(right)) <= most:
            belonging = paired_by_content(left, right, below, keeps_order=False)
            if self._is_learning and not belonging.is_sure:
                # Other pairs will tell which items belong together.
                return
            pairs = belonging.pairs or pairs
        elif self._is_learning:
            self.found(self._path(), Kind.VALUE, left, right)
            return
        self._pairs(left, right, pairs, below)
        # Of unequally many, which is allowed then, those of the shorter array must be found in the longer one.
        kind, shorter, is_left = (Kind.MISSING, left, True) if len(left) <= len(right) else (Kind.EXTRA, right, False)
        known = {one if is_left else other for one, other in pairs}
        for n, item in enumerate(shorter):
            if n not in known:
                self.found(self._path(ITEMS), kind, item, item)

    def _agree(self, left: Json, right: Json, below: Place | None) -> bool:
        """Whether two items differ in nothing; notes nothing."""
        mark, seen = self.noted.mark(), self.noted.seen
        self._compare(left, right, below)
        agreed = self.noted.seen == seen
        self.noted.back_to(mark)
        return agreed

    def _common(self, left: list[Json], right: list[Json], below: Place | None) -> tuple[int, int]:
        """How many items agree at the beginning and at the end."""
        shorter = min(len(left), len(right))
        begin = 0
        while begin < shorter and self._agree(left[begin], right[begin], below):
            begin += 1
        end = 0
        while end < shorter - begin and self._agree(left[-1 - end], right[-1 - end], below):
            end += 1
        return begin, end

    def _is_matching(self, left: list[Json], right: list[Json], below: Place | None) -> bool:
        """Whether each item of a few has one that it agrees with (Kuhn 1955)."""
        agrees = [[self._agree(one, other, below) for other in right] for one in left]
        owner: dict[int, int] = {}

        def place(mine: int, tried: set[int]) -> bool:
            for other, fits in enumerate(agrees[mine]):
                if fits and other not in tried:
                    tried.add(other)
                    if other not in owner or place(owner[other], tried):
                        owner[other] = mine
                        return True
            return False

        return all(place(mine, set()) for mine in range(len(left)))

    def _keyed(self, left: list[Json], right: list[Json], below: Place | None, rule: Rule) -> None:
        assert rule.keyed is not None
        mine, theirs = _by_member(left, rule.keyed), _by_member(right, rule.keyed)
        if mine is None or theirs is None:
            # An item without the member, or two with the same one: nothing to pair by.
            self.found(self._path(), Kind.VALUE, left, right)
            return
        paired = [name for name in mine if name in theirs]
        self._items([mine[name] for name in paired], [theirs[name] for name in paired], below)
        if _may_lack(below):
            return
        is_shorter = rule.any_length and len(mine) < len(theirs)
        is_longer = rule.any_length and len(mine) > len(theirs)
        for name, item in mine.items():
            if name not in theirs and not is_longer:
                self.found(self._path(ITEMS), Kind.MISSING, left=item)
        for name, item in theirs.items():
            if name not in mine and not is_shorter:
                self.found(self._path(ITEMS), Kind.EXTRA, right=item)

    def _digest(self, value: Json) -> str:
        return hmac.new(self._secret, canonical(value), sha256).hexdigest()[: 2 * _DIGEST_BYTES]


def leaf_paths(value: Json, limit: int = 1000) -> set[str]:
    """The paths of all parts that are neither objects nor filled arrays."""
    found: set[str] = set()
    for path in _leaves(value):
        found.add(path)
        if len(found) >= limit:
            break
    return found


def _leaves(value: Json) -> Iterator[str]:
    level: list[tuple[str, Any]] = [("$", value)]
    while level:
        path, part = level.pop()
        if isinstance(part, dict) and part:
            level += [(f"{path}.{shown(name)}", inner) for name, inner in part.items()]
        elif isinstance(part, list) and part:
            level += [(f"{path}{ITEMS}", inner) for inner in part]
        else:
            yield path


_PLAIN: Final = Rule()


def _may_lack(place: Place | None) -> bool:
    return place is not None and place.rule is not None and (place.rule.optional or place.rule.ignore)


def _by_member(items: list[Json], key: str) -> dict[bytes, Any] | None:
    found: dict[bytes, Any] = {}
    for item in items:
        if not isinstance(item, dict) or key not in item:
            return None
        name = canonical(item[key])
        if name in found:
            return None
        found[name] = item
    return found
