"""Learns what differs between two answers of one side, and proposes what to relax. Nothing is relaxed by itself.

A second call to the serving side shows which parts change from call to call. A part that also differs between the
sides, and no more often than that, is noise; one that differs more often stays a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from gateway.core.compare.agreement import exceeds, wilson_lower
from gateway.core.compare.difference import Difference, Kind
from gateway.core.compare.names import ITEMS
from gateway.core.compare.rule_tree import RuleTree
from gateway.core.compare.rules import PathError, Relax, relaxation_of
from gateway.core.compare.shapes import is_same_shape

ENOUGH_PAIRS: Final = 500
"""Second calls after which no more are made for an operation."""
_SEEN: Final = 2
_TOO_OFTEN_Z: Final = 4.0
_TOO_MANY: Final = 0.2
_PATHS: Final = 500
_NUMBERS: Final = {"integer", "number"}

_NONE: Final = "none"

Counts = Mapping[str, Any]
"""What `NoiseCounts.blob` gives, added up over processes."""


def relaxation_for(difference: Difference) -> Relax | None:
    """What would let a difference pass; None: nothing short of ignoring its part."""
    if not difference.path.startswith("$"):
        return None
    match difference.kind:
        case Kind.VALUE:
            return Relax.SHAPE if _is_alike(difference) else None
        case Kind.TYPE:
            types = {difference.left, difference.right}
            return Relax.NULL if "null" in types else Relax.NUMBER if types == _NUMBERS else None
        case Kind.MISSING | Kind.EXTRA:
            return Relax.PRESENCE
        case Kind.ORDER:
            return Relax.ORDER
        case Kind.LENGTH:
            return Relax.LENGTH
        case Kind.STATUS | Kind.HEADER | Kind.BODY:
            return None
        case _ as never:
            assert_never(never)


class NoiseCounts:
    """What one process saw of one operation under one version of its rules; its blobs can be added.

    Other rules see other differences: what stood behind an accepted one shows. So with new rules learning begins anew.

    Attributes:
        pairs: Pairs of one side that were compared under these rules.
    """

    def __init__(self) -> None:
        self._begin("")

    def _begin(self, rules: str) -> None:
        self._rules = rules
        self.pairs = 0
        self._raw_pairs = 0
        self._noise: dict[str, int] = {}
        self._raw: dict[str, int] = {}
        self._leaves: dict[str, int] = {}

    def note_pair(self, differences: Iterable[Difference], leaves: Iterable[str], rules: str = "") -> None:
        """Two answers of one side.

        Args:
            differences: Between them.
            leaves: Paths of the parts of one.
            rules: Version of the rules that they were compared by; empty: the same as before.
        """
        self._use(rules)
        self.pairs += 1
        for difference in differences:
            _count(self._noise, _name(difference))
        for path in leaves:
            _count(self._leaves, path)

    def note_raw(self, differences: Iterable[Difference], rules: str = "") -> None:
        """An answer of each side."""
        self._use(rules)
        self._raw_pairs += 1
        for difference in differences:
            _count(self._raw, _name(difference))

    def blob(self) -> dict[str, Any]:
        """For JSON, as `Counts`."""
        counted = {
            "pairs": self.pairs,
            "raw_pairs": self._raw_pairs,
            "noise": dict(self._noise),
            "raw": dict(self._raw),
            "leaves": dict(self._leaves),
        }
        return {"pairs": self.pairs, "by_rules": {self._rules: counted}}

    def _use(self, rules: str) -> None:
        if rules and rules != self._rules:
            self._begin(rules)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A part that is noisy.

    Attributes:
        path: Where.
        relax: What would make it pass; None = nothing does.
        seen: In how many pairs of one side it differed.
        pairs: Of how many.
        is_held: It differs between the sides more often than within one: a difference hides in the noise.
    """

    path: str
    relax: Relax | None
    seen: int
    pairs: int
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Learnt:
    """What was learnt of an operation.

    Attributes:
        pairs: Pairs of one side that were compared.
        proposals: Noisy parts that are not relaxed yet.
        is_too_noisy: So many parts are that agreement in the rest says little: the operation is not comparable.
    """

    pairs: int
    proposals: tuple[Proposal, ...]
    is_too_noisy: bool


def learn(counts: Counts, relaxed: Mapping[str, Relax], rules: str | None = None) -> Learnt:
    """What the counts of all processes say.

    Args:
        counts: Added up.
        relaxed: What was accepted before.
        rules: Version of the rules that count now; None: those that most pairs were compared by.
    """
    found = _under(counts, rules)
    pairs, raw_pairs = int(found.get("pairs", 0)), int(found.get("raw_pairs", 0))
    noise, raw = _by_part(found.get("noise", {})), _by_part(found.get("raw", {}))
    accepted = RuleTree.of_learnt(relaxed)
    proposals: list[Proposal] = []
    noisy = set()
    for (path, kind), words in sorted(noise.items()):
        for relax, seen in _proposable(words):
            if seen < _SEEN or wilson_lower(seen, pairs) <= 0:
                continue
            noisy.add(path)
            if relax is not None and _grants(accepted, path, relax):
                continue
            between = raw.get((path, kind), {})
            differed = sum(between.values()) if relax is None else between.get(_word(relax), 0)
            is_held = exceeds(differed, raw_pairs, seen, pairs) >= _TOO_OFTEN_Z
            proposals.append(Proposal(path, relax, seen, pairs, is_held))
    leaves = found.get("leaves", {})
    # What was accepted is as noisy as before; it is seen no more.
    noisy |= {path for path in leaves if _grants(accepted, path, Relax.SHAPE)}
    is_too_noisy = bool(leaves) and len(noisy) > _TOO_MANY * max(len(leaves), 1 / _TOO_MANY)
    return Learnt(pairs, tuple(_first_things_first(proposals)), is_too_noisy)


def is_relaxed_by(difference: Difference, relaxed: Mapping[str, Relax] | RuleTree) -> bool:
    """Whether a difference that was kept as evidence would pass under relaxations; only its shapes are known."""
    relax = relaxation_for(difference)
    tree = relaxed if isinstance(relaxed, RuleTree) else RuleTree.of_learnt(relaxed)
    return relax is not None and _grants(tree, difference.path, relax)


def _grants(tree: RuleTree, path: str, relax: Relax) -> bool:
    try:
        rule = tree.at(path)
    except PathError:
        return False
    return rule is not None and relax in relaxation_of(rule)


def _under(counts: Counts, rules: str | None) -> Counts:
    by_rules: Mapping[str, Counts] = counts.get("by_rules", {})
    if rules is not None and (rules in by_rules or "" not in by_rules):
        return by_rules.get(rules, {})
    return max(by_rules.values(), key=lambda found: int(found.get("pairs", 0)), default={})


def _by_part(counted: Mapping[str, int]) -> dict[tuple[str, str], dict[str, int]]:
    """Counts by path and kind, then by the word of what would let them pass."""
    parts: dict[tuple[str, str], dict[str, int]] = {}
    for name, count in counted.items():
        path, kind, word = name.rsplit(" ", 2)
        parts.setdefault((path, kind), {})[word] = count
    return parts


def _proposable(words: Mapping[str, int]) -> list[tuple[Relax | None, int]]:
    """What may be proposed for a part that differs in one way; where something does not help, it is not proposed."""
    if _NONE in words:
        return [(None, sum(words.values()))]
    return [(Relax.of([word]), count) for word, count in sorted(words.items())]


def _first_things_first(proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    """Leaves out what is said of items while it is not settled which of them belong together."""
    proposals = list(proposals)
    unsettled = tuple(
        f"{proposal.path}{ITEMS}" for proposal in proposals if proposal.relax in (Relax.ORDER, Relax.LENGTH)
    )
    return (proposal for proposal in proposals if not proposal.path.startswith(unsettled))


def _name(difference: Difference) -> str:
    return f"{difference.path} {difference.kind} {_word(relaxation_for(difference))}"


def _is_alike(difference: Difference) -> bool:
    if difference.is_alike is not None:
        return difference.is_alike
    return is_same_shape(difference.left, difference.right)


def _word(relax: Relax | None) -> str:
    return relax.words[0] if relax is not None else _NONE


def _count(counts: dict[str, int], name: str) -> None:
    if name in counts or len(counts) < _PATHS:
        counts[name] = counts.get(name, 0) + 1
