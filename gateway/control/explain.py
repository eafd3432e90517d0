"""Which side a key goes to, and why: the very decision of the data plane, asked without a request. Pure."""

from __future__ import annotations

from gateway.control.answers import Explained
from gateway.control.problems import Code, Refused
from gateway.core.decide import Reason, decide, decide_default
from gateway.core.percent import percent_of
from gateway.core.refusal import Refusal
from gateway.core.side_choice import bucket_ppm, key_hash
from gateway.core.snapshot import Snapshot


def explain(snapshot: Snapshot, operation: str | None, key: str | None) -> Explained:
    """Explains a decision.

    Args:
        snapshot: The policy in force.
        operation: Its name, or None for a request that no operation matches.
        key: As the recipes of the group would join it, or None for a request without.

    Raises:
        Refused: There is no such operation.
    """
    if operation is None:
        return _explain_default(snapshot, key)
    plan = snapshot.plans.get(operation)
    if plan is None:
        raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {operation[:80]!r}; crossfade status lists them")
    try:
        decision = decide(plan, key)
        side, reason = decision.side.value, decision.reason
    except Refusal:
        # A write that new may own came without its key: the data plane refuses it and asks no side.
        side, reason = None, Reason.NO_KEY
    return Explained(
        operation=operation,
        key=key,
        side=side,
        reason=reason.value,
        bucket_ppm=None if key is None else bucket_ppm(key_hash(plan.group.salt, key)),
        percent=percent_of(plan.percent),
        stage=plan.stage.value,
        epoch=snapshot.epoch,
        pending=None,
    )


def _explain_default(snapshot: Snapshot, key: str | None) -> Explained:
    decision = decide_default(snapshot)
    return Explained(
        operation=None,
        key=key,
        side=decision.side.value,
        reason=decision.reason.value,
        bucket_ppm=None,
        percent=None,
        stage=None,
        epoch=snapshot.epoch,
        pending=None,
    )
