"""Which side answers a request, and why. The order of decision is product law; every doubt has a name.

kill, stage (where all keys have one side), pending, deny, allow, force, percent.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.core.model import SCOPE_ALL, ErrorCode, OperationClass, Side, Writes
from gateway.core.refusal import Refusal
from gateway.core.side_choice import key_hash
from gateway.core.snapshot import Plan, Snapshot
from gateway.core.stages import Route


class Reason(StrEnum):
    """Why a side was chosen."""

    KILL = "kill"
    STAGE = "stage"
    PENDING = "pending"
    DENY = "deny"
    ALLOW = "allow"
    FORCE = "force"
    PERCENT = "percent"
    NO_KEY = "no_key"
    DEFAULT = "default"
    STALE_POLICY = "stale_policy"


class Doubt(StrEnum):
    """What could not be told about a request. Counted, never guessed."""

    NO_KEY = "no_key"
    UNREADABLE_BODY = "unreadable_body"
    UNKNOWN_OPERATION = "unknown_operation"


class Decision(NamedTuple):
    """A side and why."""

    side: Side
    reason: Reason


def decide(plan: Plan, key: str | None, *, pending: Side | None = None, force: Side | None = None) -> Decision:
    """Chooses the side for a request of a known operation.

    Args:
        plan: Of the operation, from the snapshot.
        key: Its key, or None when no recipe yielded one.
        pending: The side that holds writes of this key which the other lacks, if any.
        force: The side that a valid `Crossfade-Force` names.

    Raises:
        Refusal: `key_required`: a write of a dual group that new may own came without a key.
    """
    # Before the kill: a key that cannot be told may have writes on new, and old must not get ahead of them.
    if plan.must_have_key and key is None:
        raise key_required(f"operation {plan.operation.name}: the request carries no key of group {plan.group.name}")
    if plan.latch is not None:
        return Decision(Side.OLD, Reason.KILL)
    if plan.behaves_killed:
        return Decision(Side.OLD, Reason.STALE_POLICY)
    if plan.route is not Route.COHORT:
        return _beyond_share(plan, pending)
    if key is None:
        return Decision(Side.OLD, Reason.NO_KEY)
    return _within_share(plan, key, pending, force)


def _beyond_share(plan: Plan, pending: Side | None) -> Decision:
    stage_side = Side.OLD if plan.route is Route.OLD else Side.NEW
    # A key with unapplied writes stays where they are, in every stage.
    if pending is not None and pending is not stage_side:
        return Decision(pending, Reason.PENDING)
    return Decision(stage_side, Reason.STAGE)


def _within_share(plan: Plan, key: str, pending: Side | None, force: Side | None) -> Decision:
    if pending is not None:
        return Decision(pending, Reason.PENDING)
    if key in plan.deny:
        return Decision(Side.OLD, Reason.DENY)
    if key in plan.allow:
        return Decision(Side.NEW, Reason.ALLOW)
    if force is not None and may_force(plan):
        return Decision(force, Reason.FORCE)
    side = Side.NEW if key_hash(plan.group.salt, key) < plan.limit else Side.OLD
    return Decision(side, Reason.PERCENT)


def may_force(plan: Plan) -> bool:
    """Whether a forced side is heeded: reads, and anything over one shared store."""
    return plan.operation.op_class is OperationClass.READ or plan.group.writes is Writes.SHARED


def decide_default(snapshot: Snapshot) -> Decision:
    """Chooses the side for a request that no operation matches. Only a kill of everything covers it."""
    if SCOPE_ALL in snapshot.latches:
        return Decision(Side.OLD, Reason.KILL)
    return Decision(snapshot.definition.default.side, Reason.DEFAULT)


def decide_unknown(snapshot: Snapshot) -> Decision:
    """Chooses the side for a request whose operation cannot be told, such as an unreadable MCP body.

    Raises:
        Refusal: `key_required`: it may be a write of a dual group that new may own.
    """
    if snapshot.guards_dual_writes:
        raise key_required("the request's operation cannot be told and may be a write that is copied to both sides")
    return decide_default(snapshot)


def key_required(message: str) -> Refusal:
    """The refusal of a write that must not be guessed about."""
    return Refusal(ErrorCode.KEY_REQUIRED, message)
