"""Two policies that should have been one: which to believe, always to the safer side.

Needed when Redis lost data and several processes remember it. Commutative and idempotent, and never less safe than any
of its inputs of the highest epoch; kills of all are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto

from gateway.core.model import GroupPolicy, Latch, OperationPolicy, Policy, Ppm
from gateway.core.stages import rank


class Verdict(Enum):
    """What to do with a policy that was read."""

    SAME = auto()
    ADOPT = auto()
    KEEP_LOWER_EPOCH = auto()
    """Redis went back in time: data was lost."""
    KEEP_OTHER_LINEAGE = auto()
    """Somebody booted another policy under the same name."""
    UNITE = auto()
    """Same epoch, other content: two histories."""


def judge(known: Policy | None, seen: Policy) -> Verdict:
    """Compares a policy that was read with the one in force."""
    if known is None:
        return Verdict.ADOPT
    if seen.lineage != known.lineage:
        return Verdict.KEEP_OTHER_LINEAGE
    if seen.epoch != known.epoch:
        return Verdict.ADOPT if seen.epoch > known.epoch else Verdict.KEEP_LOWER_EPOCH
    return Verdict.SAME if seen == known else Verdict.UNITE


def unite(policies: Iterable[Policy]) -> Policy:
    """One policy of the same lineage: the highest epoch's content, the safer where two differ, the kills of all.

    Raises:
        ValueError: No policy, or of different lineages.
    """
    every = list(policies)
    if len({(policy.migration, policy.lineage) for policy in every}) != 1:
        raise ValueError("policies of one migration and one lineage can be united, at least one")
    highest = max(policy.epoch for policy in every)
    newest = [policy for policy in every if policy.epoch == highest]
    united = newest[0]
    for policy in newest[1:]:
        united = _safer(united, policy)
    latches = dict(united.latches)
    for policy in every:
        for scope, latch in policy.latches.items():
            held = latches.get(scope)
            # Of two accounts of one kill the earlier is the true one; any fixed rule keeps this commutative.
            if held is None or _account(latch) < _account(held):
                latches[scope] = latch
    return replace(united, latches=latches)


def _account(latch: Latch) -> tuple[datetime, str, str, str]:
    return latch.at, latch.kind, latch.by, latch.reason


def _safer(left: Policy, right: Policy) -> Policy:
    operations: dict[str, OperationPolicy] = {}
    for name in sorted({*left.operations, *right.operations}):
        a = left.operations.get(name, OperationPolicy())
        b = right.operations.get(name, OperationPolicy())
        least = min(a, b, key=lambda p: (rank(p.stage), p.percent))
        operations[name] = replace(least, mirror=Ppm(min(a.mirror, b.mirror)))
    groups: dict[str, GroupPolicy] = {}
    for name in sorted({*left.groups, *right.groups}):
        c = left.groups.get(name, GroupPolicy())
        d = right.groups.get(name, GroupPolicy())
        # A lower dual share would mark keys stale; a higher one only copies more.
        groups[name] = GroupPolicy(Ppm(max(c.dual, d.dual)), c.allow & d.allow, c.deny | d.deny)
    return replace(left, operations=operations, groups=groups)
