"""What was compared and learnt, as operators see it: figures, evidence, noise. Unknown is null, never 0; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final, cast

from gateway.control.answers import Comparisons, ConsistencyItem, NoiseItem, ProposalState, Relaxation
from gateway.control.bodies import NoiseBody
from gateway.control.problems import Code, Refused
from gateway.core.compare.agreement import agreement, agreement_at_least
from gateway.core.compare.noise import Proposal, learn
from gateway.core.compare.rules import Relax
from gateway.core.compare.tallies import WINDOW_S, Recent
from gateway.core.counts import Counts
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Operation, OperationClass
from gateway.core.snapshot import Snapshot

_SENT: Final = "sent"
_INCOMPARABLE: Final = "incomparable:"
_LAST_DIGIT: Final = Decimal("0.00000001")


def comparison_counts(totals: Counts, operation: str, suspected: int) -> Comparisons:
    """What became of an operation's mirrored reads since the workers began to count.

    Args:
        totals: What was counted.
        operation: Its name.
        suspected: Differences that wait to be read again.
    """
    compared: Mapping[str, int] = totals.get("comparisons", {}).get(operation, {})
    mirror: Mapping[str, int] = totals.get("mirror", {}).get(operation, {})
    if not compared and not mirror:
        return Comparisons()
    return Comparisons(
        match=compared.get("match", 0),
        suspected=max(0, suspected),
        mismatch=compared.get("mismatch", 0),
        incomparable=sum(count for name, count in compared.items() if name.startswith(_INCOMPARABLE)),
        # A stage that mirrors nothing has skipped nothing.
        skipped=sum(count for name, count in mirror.items() if name not in (_SENT, Unmirrored.STAGE)),
    )


def read_agreement(found: Recent) -> float | None:
    """The share of an operation's compared reads that agreed lately, 0-1."""
    return _cut(agreement(found.matches, found.mismatches))


def consistency_items(snapshot: Snapshot, recent: Mapping[str, Recent]) -> list[ConsistencyItem]:
    """The figures of every group that compares anything, and of its reads."""
    items = []
    for group in snapshot.definition.groups.values():
        reads = [name for name in group.operations if snapshot.plans[name].operation.op_class is OperationClass.READ]
        if not reads:
            continue
        found = [recent.get(name, _NOTHING) for name in reads]
        if not group.implicit:
            items.append(_consistency(f"group {group.name}", sum(found, _NOTHING)))
        items += [_consistency(f"operation {name}", one) for name, one in zip(reads, found, strict=True)]
    return items


def _consistency(target: str, found: Recent) -> ConsistencyItem:
    reasons = {
        name.removeprefix(_INCOMPARABLE): count
        for name, count in found.results.items()
        if name.startswith(_INCOMPARABLE)
    }
    return ConsistencyItem(
        target=target,
        window_s=WINDOW_S,
        since=found.since,
        rules=found.rules,
        matches=found.matches,
        mismatches=found.mismatches,
        incomparable=reasons,
        read_agreement=read_agreement(found),
        read_agreement_at_least=_cut(agreement_at_least(found.matches, found.mismatches)),
        write_delivery=None,
        state=None,
    )


def noise_items(
    snapshot: Snapshot, totals: Counts, relaxed: Mapping[str, Mapping[str, Relax]], version: int
) -> list[NoiseItem]:
    """What was learnt of every read, and what was accepted."""
    counts: Mapping[str, Any] = totals.get("noise", {})
    items = []
    for name, plan in snapshot.plans.items():
        if plan.operation.op_class is not OperationClass.READ:
            continue
        accepted = relaxed.get(name, {})
        rules = plan.operation.comparison.relaxed_by(accepted)
        learnt = learn(counts.get(name, {}), accepted, rules.version)
        items.append(
            NoiseItem(
                operation=name,
                version=version,
                pairs=learnt.pairs,
                is_too_noisy=learnt.is_too_noisy,
                accepted={path: _words(relax) for path, relax in sorted(accepted.items())},
                proposals=[
                    ProposalState(
                        path=proposal.path,
                        relax=_words(proposal.relax)[0] if proposal.relax is not None else None,
                        seen=proposal.seen,
                        pairs=proposal.pairs,
                        is_held=proposal.is_held,
                    )
                    for proposal in learnt.proposals
                ],
            )
        )
    return items


def changed_noise(
    operation: Operation, body: NoiseBody, relaxed: Mapping[str, Mapping[str, Relax]], totals: Counts
) -> dict[str, Relax]:
    """What is accepted for an operation after a change.

    A part may differ in several ways: accepting it accepts all that are proposed for it, besides what it has.

    Raises:
        Refused: `rule_violation`: what is to be accepted is not proposed, or cannot be; what is to go is not there.
    """
    before = relaxed.get(operation.name, {})
    after = dict(before)
    for path in body.drop:
        if after.pop(path, None) is None:
            raise Refused(Code.RULE_VIOLATION, f"{path} is not accepted for {operation.name}", rule="not_accepted")
    learnt = learn(totals.get("noise", {}).get(operation.name, {}), {}, operation.comparison.relaxed_by(before).version)
    for path in body.accept:
        proposed = [found for found in learnt.proposals if found.path == path]
        if not proposed and path in after:
            continue
        after[path] = after.get(path, Relax(0)) | _relaxation(operation.name, path, proposed)
    return after


def _relaxation(operation: str, path: str, proposed: Sequence[Proposal]) -> Relax:
    """What accepting a part would relax.

    Raises:
        Refused: `rule_violation`: nothing, or a difference may hide in it.
    """
    helpful = [found for found in proposed if found.relax is not None]
    if not helpful:
        why = "differs in a way that nothing short of ignoring would pass" if proposed else "is not proposed"
        raise Refused(
            Code.RULE_VIOLATION,
            f"{path} {why}; a rule of your own goes into operations.{operation}.compare of the migration file",
            rule="not_proposed",
        )
    if any(found.is_held for found in helpful):
        raise Refused(
            Code.RULE_VIOLATION,
            f"{path} differs between the sides more often than within one: a difference hides in the noise",
            rule="held",
        )
    relax = Relax(0)
    for found in helpful:
        relax |= found.relax or Relax(0)
    return relax


def _words(relax: Relax) -> list[Relaxation]:
    return cast("list[Relaxation]", relax.words)


def _cut(share: float | None) -> float | None:
    # Never up: less than all is not all, and a bound that is rounded up is none.
    return None if share is None else float(Decimal(repr(share)).quantize(_LAST_DIGIT, ROUND_FLOOR))


_NOTHING: Final = Recent()
