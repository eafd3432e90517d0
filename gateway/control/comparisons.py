"""What was compared and learnt, as operators see it: figures, evidence, noise. Unknown is null, never 0; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from gateway.control.answers import Comparisons, ConsistencyItem, NoiseItem, ProposalState, Relaxation
from gateway.control.bodies import NoiseBody
from gateway.control.problems import Code, Refused
from gateway.core.compare.agreement import agreement, agreement_at_least
from gateway.core.compare.noise import Proposal, learn
from gateway.core.compare.rules import Relax
from gateway.core.counts import Counts, add
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Operation, OperationClass
from gateway.core.snapshot import Snapshot

_SENT: Final = "sent"
_INCOMPARABLE: Final = "incomparable:"
_DIGITS: Final = 8


def comparison_counts(totals: Counts, operation: str) -> Comparisons:
    """What became of an operation's mirrored reads since the workers began to count."""
    compared: Mapping[str, int] = totals.get("comparisons", {}).get(operation, {})
    mirror: Mapping[str, int] = totals.get("mirror", {}).get(operation, {})
    if not compared and not mirror:
        return Comparisons()
    return Comparisons(
        match=compared.get("match", 0),
        suspected=max(0, compared.get("suspected", 0) - compared.get("settled", 0)),
        mismatch=compared.get("mismatch", 0),
        incomparable=sum(count for name, count in compared.items() if name.startswith(_INCOMPARABLE)),
        # A stage that mirrors nothing has skipped nothing.
        skipped=sum(count for name, count in mirror.items() if name not in (_SENT, Unmirrored.STAGE)),
    )


def read_agreement(totals: Counts, operation: str) -> float | None:
    """The share of an operation's compared reads that agreed, 0-1."""
    compared = totals.get("comparisons", {}).get(operation, {})
    return _rounded(agreement(compared.get("match", 0), compared.get("mismatch", 0)))


def consistency_items(snapshot: Snapshot, totals: Counts) -> list[ConsistencyItem]:
    """The figures of every group that compares anything, and of its reads."""
    compared: Mapping[str, Mapping[str, int]] = totals.get("comparisons", {})
    items = []
    for group in snapshot.definition.groups.values():
        reads = [name for name in group.operations if snapshot.plans[name].operation.op_class is OperationClass.READ]
        if not reads:
            continue
        together: Counts = {}
        for name in reads:
            together = add(together, compared.get(name, {}))
        if not group.implicit:
            items.append(_consistency(f"group {group.name}", together))
        items += [_consistency(f"operation {name}", compared.get(name, {})) for name in reads]
    return items


def _consistency(target: str, compared: Mapping[str, int]) -> ConsistencyItem:
    matches, mismatches = compared.get("match", 0), compared.get("mismatch", 0)
    reasons = {
        name.removeprefix(_INCOMPARABLE): count for name, count in compared.items() if name.startswith(_INCOMPARABLE)
    }
    return ConsistencyItem(
        target=target,
        matches=matches,
        mismatches=mismatches,
        incomparable=reasons,
        read_agreement=_rounded(agreement(matches, mismatches)),
        read_agreement_at_least=_rounded(agreement_at_least(matches, mismatches)),
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


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, _DIGITS)
