"""The snapshot: definition and policy compiled into what a request needs to be decided.

Built whenever either changes and replaced by one reference assignment; a request never computes what could be computed
here. It must not know where the policy came from nor how it travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.classify import Router
from gateway.core.keys import body_may_decide, header_names_of
from gateway.core.mirroring import Unmirrored
from gateway.core.model import (
    PPM_NONE,
    SCOPE_ALL,
    Definition,
    Epoch,
    Group,
    GroupPolicy,
    Latch,
    Operation,
    OperationClass,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    ScopeKind,
    Side,
    Stage,
    Writes,
)
from gateway.core.side_choice import share_limit
from gateway.core.stages import TABLE, Route, rank, route, share_in

_MCP_BODY_LIMIT_BYTES: Final = 4 << 20
"""Where no operation is matched by MCP: the limit of the reference SDK's own server."""


class SnapshotOrigin(StrEnum):
    """Where a process got its policy."""

    REDIS = "redis"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a request of one operation.

    Attributes:
        operation: Its definition.
        group: Its group.
        stage: The stage in force.
        percent: The stored share.
        effective: The share in force: 0 when killed.
        limit: Hashes below it go to new.
        route: Who has authority over the operation in this stage, kills left aside.
        latch: The kill in force, or None.
        killed_at: Effective scope of that kill.
        allow: Keys pinned to new in `live`.
        deny: Keys pinned to old in `live`.
        behaves_killed: The policy is stale and the stage is one in which old is complete.
        body_decides: Whether the key may stand in the body.
        must_have_key: A write of a dual group that new may own: never forwarded without a key.
        mirror_limit: Hashes of request ids below it are mirrored; 0 for none.
        unmirrored: Why none is, where stage or kill says so.
    """

    operation: Operation
    group: Group
    stage: Stage
    percent: Ppm
    effective: Ppm
    limit: int
    route: Route
    latch: Latch | None
    killed_at: Scope | None
    allow: frozenset[str]
    deny: frozenset[str]
    behaves_killed: bool
    body_decides: bool
    must_have_key: bool
    mirror_limit: int = 0
    unmirrored: Unmirrored | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one gateway process decides from, at one epoch.

    Attributes:
        definition: From the file.
        policy: From Redis or disk, without kills that came from outside it.
        latches: The kills in force, those from outside the policy included.
        plans: By operation name.
        router: Matches requests to operations.
        origin: Where the policy came from.
        stale: No successful read of the policy lately.
        guards_dual_writes: Some dual group is in `live` or later: a write that cannot be told apart is refused.
        guarded_headers: Lower-case names whose underscore spellings are dropped, since a side may read them alike.
        pseudonym: The gateway's name in `Via`.
        mcp_body_limit_bytes: Largest MCP message that is read to find its operation.
        hosts: By side: what it gets as `Host` instead of the client's, or None; and what it gets where there is none.
    """

    definition: Definition
    policy: Policy
    latches: Mapping[Scope, Latch]
    plans: Mapping[str, Plan]
    router: Router
    origin: SnapshotOrigin
    stale: bool
    guards_dual_writes: bool
    guarded_headers: frozenset[bytes]
    pseudonym: bytes
    mcp_body_limit_bytes: int
    hosts: Mapping[Side, tuple[bytes | None, bytes]]

    @property
    def epoch(self) -> Epoch:
        """The policy's epoch."""
        return self.policy.epoch


def is_bound(group: Group, operation: Operation) -> bool:
    """Whether the operation shares its group's stage and share rather than having its own.

    All of a `none` group, the writes of a `dual` group unless it is `independent`.
    """
    match group.writes:
        case Writes.NONE:
            return not group.implicit
        case Writes.DUAL:
            return operation.op_class is OperationClass.WRITE and not group.independent
        case Writes.SHARED:
            return False


def effective_scope(definition: Definition, scope: Scope) -> Scope:
    """What a kill of `scope` covers: a bound operation takes its group along."""
    if scope.kind is not ScopeKind.OPERATION or scope.name not in definition.operations:
        return scope
    operation = definition.operations[scope.name]
    group = definition.groups[operation.group]
    return Scope(ScopeKind.GROUP, group.name) if is_bound(group, operation) else scope


def covers(definition: Definition, scope: Scope, operation: Operation) -> bool:
    """Whether a kill of `scope` stops `operation`."""
    wide = effective_scope(definition, scope)
    match wide.kind:
        case ScopeKind.ALL:
            return True
        case ScopeKind.GROUP:
            return operation.group == wide.name
        case ScopeKind.OPERATION:
            return operation.name == wide.name


def settled_policies(definition: Definition, policy: Policy) -> dict[str, OperationPolicy]:
    """The policy of every operation of the definition, with the rules of groups made true.

    An operation that the policy does not know is `off`, or follows its group where it is bound. Bound operations that
    disagree (the file changed their group) take the safest of their values: least stage, then least share. Reads of a
    dual group that would lead its writes are held back to them.
    """
    settled = {name: policy.operations.get(name, OperationPolicy()) for name in definition.operations}
    for group in definition.groups.values():
        bound = [name for name in group.operations if is_bound(group, definition.operations[name])]
        stored = [policy.operations[name] for name in bound if name in policy.operations]
        if not stored:
            continue
        safest = min(stored, key=progress)
        for name in bound:
            settled[name] = OperationPolicy(safest.stage, safest.percent, settled[name].mirror)
    for group in definition.groups.values():
        lead = lead_of(definition, group, settled)
        if lead is None:
            continue
        for name in group.operations:
            if progress(settled[name]) > progress(lead):
                settled[name] = OperationPolicy(lead.stage, lead.percent, settled[name].mirror)
    return settled


def progress(policy: OperationPolicy) -> tuple[int, Ppm]:
    """How far an operation has moved: by stage, then by share. Of two, the lesser is the safer."""
    return rank(policy.stage), policy.percent


def lead_of(definition: Definition, group: Group, policies: Mapping[str, OperationPolicy]) -> OperationPolicy | None:
    """How far the reads of a dual group may go: as far as its writes. None where every operation goes by itself."""
    if group.writes is not Writes.DUAL or group.independent:
        return None
    writes = (name for name in group.operations if definition.operations[name].op_class is OperationClass.WRITE)
    return min((policies[name] for name in writes), key=progress, default=None)


def _widest_latch(definition: Definition, latches: Mapping[Scope, Latch], operation: Operation) -> Latch | None:
    covering = [latch for scope, latch in latches.items() if covers(definition, scope, operation)]
    width = {ScopeKind.ALL: 0, ScopeKind.GROUP: 1, ScopeKind.OPERATION: 2}
    return min(
        covering,
        key=lambda latch: (width[effective_scope(definition, latch.scope).kind], latch.scope),
        default=None,
    )


def _why_unmirrored(stage: Stage, *, is_killed: bool) -> Unmirrored | None:
    if not TABLE[stage].mirrors:
        return Unmirrored.STAGE
    return Unmirrored.KILL if is_killed else None


def compile_snapshot(
    definition: Definition,
    policy: Policy,
    *,
    external: Mapping[Scope, Latch] | None = None,
    stale: bool = False,
    origin: SnapshotOrigin = SnapshotOrigin.REDIS,
    router: Router | None = None,
) -> Snapshot:
    """Compiles a definition and a policy.

    Args:
        definition: From the file.
        policy: From Redis or disk.
        external: Kills that stand outside the policy: break-glass keys and file, local trips.
        stale: Whether the policy could not be read for too long.
        origin: Where the policy came from.
        router: The router of the same definition if there is one already.
    """
    latches = {**policy.latches, **{s: latch for s, latch in (external or {}).items() if s not in policy.latches}}
    settled = settled_policies(definition, policy)
    plans: dict[str, Plan] = {}
    for operation in definition.operations.values():
        group = definition.groups[operation.group]
        mine = settled[operation.name]
        latch = latches.get(SCOPE_ALL) or _widest_latch(definition, latches, operation) if latches else None
        effective = PPM_NONE if latch else share_in(mine.stage, mine.percent)
        pinned = policy.groups.get(group.name, GroupPolicy())
        authority = route(mine.stage, operation.op_class)
        behaves_killed = stale and authority is Route.OLD
        unmirrored = _why_unmirrored(mine.stage, is_killed=latch is not None or behaves_killed)
        plans[operation.name] = Plan(
            operation=operation,
            group=group,
            stage=mine.stage,
            percent=mine.percent,
            effective=effective,
            limit=share_limit(effective),
            route=authority,
            latch=latch,
            killed_at=effective_scope(definition, latch.scope) if latch else None,
            allow=pinned.allow,
            deny=pinned.deny,
            behaves_killed=behaves_killed,
            body_decides=body_may_decide(group.recipes),
            must_have_key=(
                group.writes is Writes.DUAL
                and operation.op_class is OperationClass.WRITE
                and authority is not Route.OLD
            ),
            mirror_limit=0 if unmirrored else share_limit(mine.mirror),
            unmirrored=unmirrored,
        )
    recipes = [recipe for group in definition.groups.values() for recipe in group.recipes]
    return Snapshot(
        definition=definition,
        policy=policy,
        latches=latches,
        plans=plans,
        router=router or Router(definition),
        origin=origin,
        stale=stale,
        guards_dual_writes=any(plan.must_have_key for plan in plans.values()),
        guarded_headers=header_names_of(recipes),
        pseudonym=f"crossfade-{definition.migration}".encode(),
        mcp_body_limit_bytes=max(
            (op.body_limit_bytes for op in definition.operations.values() if op.mcp), default=_MCP_BODY_LIMIT_BYTES
        ),
        hosts={
            side: (of.host.encode() if of.host else None, of.instances[0].authority.encode())
            for side, of in definition.sides.items()
        },
    )
