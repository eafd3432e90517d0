"""Arrays whose order does not count: what their items are told apart by, and which of them belong together.

An item's key is what must agree exactly. Parts that may differ (a relaxed value, a tolerance, a member that may be
missing) are no part of it; who compares looks at them once the items are paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from gateway.core.compare.equality import has_tolerance, is_number
from gateway.core.compare.json_value import Json, canonical
from gateway.core.compare.names import ITEMS
from gateway.core.compare.rule_tree import Place
from gateway.core.compare.rules import Rule
from gateway.core.compare.shapes import normalised, time_of, type_of

Pairs = list[tuple[int, int]]
"""Indices that belong together, of the left and of the right array."""

_UNIQUE_COLUMNS: Final = 8
"""Members that items are tentatively paired by."""
_SHARED: Final = 0.5
"""Which share of a member's values both sides must hold, for items to be paired by it."""

_UNSTABLE: Final = 0.1
"""What a member counts for whose values are not the same on both sides: it changes, or was changed."""
_NEARLY: Final = 0.6
"""Another way to pair items that explains this share of what the best one does is nearly as good."""
_DIGITS: Final = 9

_Values = tuple[str | bytes, ...]


def key_of(item: Json, place: Place | None, *, loose: bool) -> bytes:
    """What an item is told apart by: equal for two that can be equal under the rules."""
    return canonical(item if place is None and not loose else _exact(item, place, loose=loose))


def _exact(value: Json, place: Place | None, *, loose: bool) -> Json:
    """A value without what may differ."""
    rule = place.rule if place is not None else None
    if isinstance(value, dict):
        parts = ((name, inner, place.member(name) if place is not None else None) for name, inner in value.items())
        return {name: _exact(inner, below, loose=loose) for name, inner, below in parts if not _is_free(below)}
    if isinstance(value, list):
        if rule is not None and rule.any_length:
            return None
        below = place.items if place is not None else None
        items = [None if _is_free(below) else _exact(item, below, loose=loose) for item in value]
        if rule is not None and (rule.unordered or rule.keyed is not None):
            items.sort(key=canonical)
        return items
    if rule is not None and _may_vary(value, rule):
        return "number" if is_number(value) else type_of(value)
    if rule is not None and rule.normalise and isinstance(value, str):
        return normalised(value, rule.normalise)
    if is_number(value) and (loose or (rule is not None and rule.loose_number)):
        return Decimal(value)
    return value


def _is_free(place: Place | None) -> bool:
    """Whether a part may be there on one side alone."""
    rule = place.rule if place is not None else None
    return rule is not None and (rule.ignore or rule.optional or rule.nullable)


def _may_vary(value: Json, rule: Rule) -> bool:
    if rule.shape or rule.form is not None:
        return True
    return (is_number(value) and has_tolerance(rule)) or (isinstance(value, str) and rule.within_s is not None)


# --- pairing -------------------------------------------------------------------------------------------------------


def paired_alike(left: Sequence[Json], right: Sequence[Json]) -> tuple[Pairs, list[int], list[int]]:
    """Pairs items of one key: equal ones first, the others by size of what may differ.

    Returns:
        The pairs, and what is left over on either side.
    """
    places: dict[bytes, list[int]] = {}
    for index, item in enumerate(right):
        places.setdefault(canonical(item), []).append(index)
    pairs: Pairs = []
    rest: list[int] = []
    for index, item in enumerate(left):
        same = places.get(canonical(item))
        if same:
            pairs.append((index, same.pop()))
        else:
            rest.append(index)
    others = [index for same in places.values() for index in same]
    if rest and others:
        rest.sort(key=lambda index: list(_ranks("", left[index])))
        others.sort(key=lambda index: list(_ranks("", right[index])))
    count = min(len(rest), len(others))
    pairs += zip(rest, others, strict=False)
    return pairs, rest[count:], others[count:]


def _ranks(name: str, value: Json) -> Iterator[tuple[str, int, Decimal | float, str]]:
    """What orders values of one kind: numbers by size, times by when they are."""
    if isinstance(value, dict):
        for inner in sorted(value):
            yield from _ranks(f"{name}.{inner}", value[inner])
    elif isinstance(value, list):
        for item in value:
            yield from _ranks(f"{name}{ITEMS}", item)
    elif is_number(value):
        yield name, 0, Decimal(value), ""
    else:
        at = time_of(value)
        yield name, 1 if at is not None else 2, at or 0.0, "" if at is not None else str(value)


@dataclass(frozen=True, slots=True)
class Belonging:
    """Which items of two arrays belong together.

    Attributes:
        pairs: None: as they stand.
        is_sure: Whether no other way to pair them is nearly as good.
    """

    pairs: Pairs | None
    is_sure: bool


def paired_by_content(
    left: Sequence[Json], right: Sequence[Json], place: Place | None, *, keeps_order: bool
) -> Belonging:
    """Pairs the items of two arrays so that as much of them as possible agrees.

    Each member whose values tell the items apart is tried, then all together that both sides hold the same of. What
    agrees weighs the more, the fewer items have it; a member that changes from answer to answer weighs little.

    Args:
        left: Items.
        right: Items of the other side.
        place: What counts for them.
        keeps_order: Whether they belong together as they stand, unless something speaks for another order.
    """
    columns = sorted(_columns(left, right, place), key=lambda column: (not column.is_stable, -len(column.weights)))
    as_they_stand = [(n, n) for n in range(min(len(left), len(right)))]
    ways = {frozenset(pairs): pairs for pairs in _attempts(columns, len(left), len(right))}
    if keeps_order or not ways:
        ways.pop(frozenset(as_they_stand), None)
        ways = {frozenset(as_they_stand): as_they_stand, **ways}
    # The first of two that are equally good: as they stand, or by the member that says most.
    (best, agreed), *others = sorted(
        ((pairs, _agreement(pairs, columns)) for pairs in ways.values()), key=lambda way: -round(way[1], _DIGITS)
    )
    is_sure = not others or others[0][1] <= _NEARLY * agreed
    return Belonging(None, is_sure=True) if best is as_they_stand else Belonging(best, is_sure)


@dataclass(frozen=True, slots=True)
class _Column:
    """The values of one member, item by item.

    Attributes:
        left: Of the left items; an item without the member, or with several values of it, has none or several.
        right: Of the right items.
        is_stable: Whether both sides hold the same values.
        weights: What each value is worth where it agrees.
        by_chance: What agreement is to be expected of any pairs.
    """

    left: list[_Values]
    right: list[_Values]
    is_stable: bool
    weights: Mapping[_Values, float]
    by_chance: float


def _attempts(columns: Sequence[_Column], mine: int, theirs: int) -> Iterator[Pairs]:
    tried = 0
    for column in columns:
        if tried == _UNIQUE_COLUMNS:
            break
        places = {value: index for index, value in enumerate(column.right) if value}
        if len(places) < theirs or len(column.weights) < mine or not all(column.left):
            continue
        pairs = [(index, places[value]) for index, value in enumerate(column.left) if value in places]
        if len(pairs) >= _SHARED * min(mine, theirs):
            tried += 1
            yield _completed(pairs, mine, theirs)
    same = [column for column in columns if column.is_stable]
    if mine == theirs and same:
        rows = (_sorted([column.left for column in same]), _sorted([column.right for column in same]))
        yield list(zip(*rows, strict=True))


def _sorted(columns: Sequence[Sequence[_Values]]) -> list[int]:
    """The items in the order of what the columns say of them."""
    return sorted(range(len(columns[0])), key=lambda item: [_sortable(column[item]) for column in columns])


def _sortable(values: _Values) -> tuple[bytes, ...]:
    return tuple(value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass") for value in values)


def _completed(pairs: Pairs, mine: int, theirs: int) -> Pairs:
    """With those of equally many items that have no counterpart, in their order."""
    if mine != theirs or len(pairs) == mine:
        return pairs
    left, right = {one for one, _ in pairs}, {other for _, other in pairs}
    rest = [n for n in range(mine) if n not in left], [n for n in range(theirs) if n not in right]
    return [*pairs, *zip(*rest, strict=True)]


def _agreement(pairs: Pairs, columns: Iterable[_Column]) -> float:
    agreed = 0.0
    for column in columns:
        left, right, weights = column.left, column.right, column.weights
        agreed += sum(weights[left[one]] for one, other in pairs if left[one] == right[other]) - column.by_chance
    return agreed


def _columns(left: Sequence[Json], right: Sequence[Json], place: Place | None) -> Iterator[_Column]:
    """The values of each member of both sides; what rules let vary is left out."""
    one, other = (_by_member(items, place) for items in (left, right))
    for path in one:
        if path in other:
            yield _column(_filled(one[path], len(left)), _filled(other[path], len(right)))


def _column(left: list[_Values], right: list[_Values]) -> _Column:
    mine, theirs = Counter(left), Counter(right)
    fewer, more = (mine, theirs) if len(left) <= len(right) else (theirs, mine)
    is_stable = not fewer - more
    worth = 1.0 if is_stable else _UNSTABLE
    by_chance = worth * sum(theirs[value] for value in mine) / max(len(left), len(right))
    return _Column(left, right, is_stable, {value: worth / count for value, count in mine.items()}, by_chance)


def _by_member(items: Iterable[Json], place: Place | None) -> dict[str, dict[int, list[str | bytes]]]:
    found: dict[str, dict[int, list[str | bytes]]] = {}
    for index, item in enumerate(items):
        for path, value in _leaves("", item, place):
            found.setdefault(path, {}).setdefault(index, []).append(value)
    return found


def _filled(values: Mapping[int, list[str | bytes]], count: int) -> list[_Values]:
    return [tuple(sorted(values.get(index, ()), key=lambda value: _sortable((value,)))) for index in range(count)]


def _leaves(path: str, value: Json, place: Place | None) -> Iterator[tuple[str, str | bytes]]:
    rule = place.rule if place is not None else None
    if rule is not None and rule.ignore:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner, place.member(name) if place is not None else None)
    elif isinstance(value, list):
        below = place.items if place is not None else None
        for item in value:
            yield from _leaves(f"{path}{ITEMS}", item, below)
    elif rule is None or not _may_vary(value, rule):
        yield path, value if isinstance(value, str) else canonical(value)
