"""Learns what differs between two answers of one side, and proposes what to relax. Nothing is relaxed by itself.

A second call to the serving side shows which parts change from call to call. A part that also differs between the
sides, and no more often than that, is noise; one that differs more often stays a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.compare.agreement import exceeds, wilson_lower
from gateway.core.compare.rules import Relax
from gateway.core.compare.shapes import is_same_shape
from gateway.core.compare.tree import Difference, Kind

ENOUGH_PAIRS: Final = 500
"""Second calls after which no more are made for an operation."""
_SEEN: Final = 2
_TOO_OFTEN_Z: Final = 4.0
_TOO_MANY: Final = 0.2
_PATHS: Final = 500

_RELAX: Final = {
    Kind.VALUE: Relax.SHAPE,
    Kind.ORDER: Relax.ORDER,
    Kind.MISSING: Relax.PRESENCE,
    Kind.EXTRA: Relax.PRESENCE,
}

Counts = Mapping[str, Any]
"""`{"pairs", "raw_pairs", "noise": {"path kind": n}, "unshaped": {path: n}, "raw": {...}, "leaves": {path: n}}`."""


class NoiseCounts:
    """What one process saw of one operation; its blobs can be added."""

    def __init__(self) -> None:
        self.pairs = 0
        self._raw_pairs = 0
        self._noise: dict[str, int] = {}
        self._unshaped: dict[str, int] = {}
        self._raw: dict[str, int] = {}
        self._leaves: dict[str, int] = {}

    def note_pair(self, differences: Iterable[Difference], leaves: Iterable[str]) -> None:
        """Two answers of one side."""
        self.pairs += 1
        for difference in differences:
            _count(self._noise, f"{difference.path} {difference.kind}")
            if difference.kind is Kind.VALUE and not is_same_shape(difference.left, difference.right):
                _count(self._unshaped, difference.path)
        for path in leaves:
            _count(self._leaves, path)

    def note_raw(self, differences: Iterable[Difference]) -> None:
        """An answer of each side."""
        self._raw_pairs += 1
        for difference in differences:
            _count(self._raw, f"{difference.path} {difference.kind}")

    def blob(self) -> dict[str, Any]:
        """For JSON, as `Counts`."""
        return {
            "pairs": self.pairs,
            "raw_pairs": self._raw_pairs,
            "noise": dict(self._noise),
            "unshaped": dict(self._unshaped),
            "raw": dict(self._raw),
            "leaves": dict(self._leaves),
        }


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


def learn(counts: Counts, relaxed: Mapping[str, Relax]) -> Learnt:
    """What the counts of all processes say.

    Args:
        counts: Added up.
        relaxed: What was accepted before.
    """
    pairs, raw_pairs = int(counts.get("pairs", 0)), int(counts.get("raw_pairs", 0))
    raw: Mapping[str, int] = counts.get("raw", {})
    unshaped: Mapping[str, int] = counts.get("unshaped", {})
    proposals = []
    noisy = set()
    for name, seen in sorted(counts.get("noise", {}).items()):
        path, _, kind = name.rpartition(" ")
        if seen < _SEEN or wilson_lower(seen, pairs) <= 0:
            continue
        noisy.add(path)
        relax = _RELAX.get(Kind(kind)) if path.startswith("$") else None
        if relax is Relax.SHAPE and unshaped.get(path):
            relax = None
        if relax is not None and relaxed.get(path) is relax:
            continue
        is_held = exceeds(int(raw.get(name, 0)), raw_pairs, seen, pairs) >= _TOO_OFTEN_Z
        proposals.append(Proposal(path, relax, seen, pairs, is_held))
    leaves = len(counts.get("leaves", {}))
    return Learnt(pairs, tuple(proposals), leaves > 0 and len(noisy) > _TOO_MANY * max(leaves, 1 / _TOO_MANY))


def is_relaxed_by(difference: Difference, relaxed: Mapping[str, Relax]) -> bool:
    """Whether a difference that was kept as evidence would pass under relaxations; only its shapes are known."""
    relax = relaxed.get(difference.path)
    if relax is None or _RELAX.get(difference.kind) is not relax:
        return False
    return relax is not Relax.SHAPE or is_same_shape(difference.left, difference.right)


def _count(counts: dict[str, int], name: str) -> None:
    if name in counts or len(counts) < _PATHS:
        counts[name] = counts.get(name, 0) + 1
