"""Evidence: what is kept of a difference, without a value of anybody's data, grouped by what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gateway.core.compare.difference import Difference
from gateway.core.compare.noise import is_relaxed_by
from gateway.core.compare.rule_tree import RuleTree
from gateway.core.compare.rules import Relax

_SIGNATURE_DIGITS: Final = 16


class Finding(StrEnum):
    """What became of a difference."""

    SUSPECTED = "suspected"
    """Seen once; read again before it counts."""
    MISMATCH = "mismatch"
    """Still there after both further reads."""
    REFUTED = "refuted"
    """Gone when both sides were read again."""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding about one pair of answers.

    Attributes:
        operation: Its name.
        finding: What became of it.
        differences: Where the answers differ.
        request_id: An example.
        serving: The side that served, `old` or `new`.
        rules: Version of the rules.
        at: Unix seconds.
    """

    operation: str
    finding: Finding
    differences: tuple[Difference, ...]
    request_id: str
    serving: str
    rules: str
    at: float

    @property
    def signature(self) -> str:
        """Names the group: the operation and what differs how."""
        return signature_of(self.operation, self.differences)


def signature_of(operation: str, differences: Iterable[Difference]) -> str:
    """The same for the same operation, paths and kinds."""
    parts = sorted({f"{difference.path} {difference.kind}" for difference in differences})
    return hashlib.sha256("\n".join([operation, *parts]).encode()).hexdigest()[:_SIGNATURE_DIGITS]


def replayed(groups: Iterable[Mapping[str, Any]], relaxed: Mapping[str, Relax]) -> list[dict[str, Any]]:
    """What further relaxations would make of evidence that is stored.

    Args:
        groups: As stored: `signature`, `operation`, `differences`, counts.
        relaxed: By path.

    Returns:
        Each group with `passes` and the differences that are `left`.
    """
    judged = []
    tree = RuleTree.of_learnt(relaxed)
    for group in groups:
        found = [Difference.from_document(document) for document in group["differences"]]
        left = [difference for difference in found if not is_relaxed_by(difference, tree)]
        judged.append(
            {
                "signature": group["signature"],
                "operation": group["operation"],
                "suspected": group["suspected"],
                "mismatch": group["mismatch"],
                "passes": not left,
                "left": [f"{difference.path} {difference.kind}" for difference in left],
            }
        )
    return judged
