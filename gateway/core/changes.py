"""What operators may change, and the rules that a change must keep.

Pure: takes a definition and a policy, gives the policy after the change and what changed, or raises a `RuleViolation`
that names the rule and a command that would be legal. Storing the result is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from gateway.core.file_policy import FilePolicy
from gateway.core.model import (
    PPM_ALL,
    PPM_NONE,
    Definition,
    Epoch,
    Group,
    GroupPolicy,
    Latch,
    LatchKind,
    OperationClass,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    ScopeKind,
    Stage,
    Writes,
)
from gateway.core.percent import percent_of
from gateway.core.roles import Role
from gateway.core.snapshot import covers, is_bound, settled_policies
from gateway.core.stages import TABLE, next_stages, previous_stages, rank, stages_of

TRIP_COOL_DOWN: Final = timedelta(seconds=600)
"""How long a tripped scope stays killed at least. Kills by hand may be re-armed at once."""

Delta = tuple[object, object]
"""Before and after, as an operator reads them: percentages as numbers 0-100, stages by name."""


class RuleViolation(Exception):  # noqa: N818 - the word of the contract
    """A change breaks a rule.

    Attributes:
        code: `rule_violation`, `stage_has_no_share`, `group_share` or `not_yet_available`.
        rule: Short name of the rule.
        message: What is wrong.
        legal: A command that would be legal, or None.
    """

    def __init__(self, rule: str, message: str, *, legal: str | None = None, code: str = "rule_violation") -> None:
        super().__init__(message)
        self.code = code
        self.rule = rule
        self.message = message
        self.legal = legal


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator asks for. None = leave as it is.

    Attributes:
        stage: The stage to enter.
        percent: Share of keys that new answers.
        mirror: Share of reads that are mirrored.
        dual: Share of keys whose writes are copied; groups only.
        skip: Jump over stages on the way forward.
    """

    stage: Stage | None = None
    percent: Ppm | None = None
    mirror: Ppm | None = None
    dual: Ppm | None = None
    skip: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    """The outcome of a change.

    Attributes:
        policy: After it; the epoch is still the one before, the store raises it.
        fields: What differs, by field name.
        role: Least role that may do it.
    """

    policy: Policy
    fields: Mapping[str, Delta]
    role: Role

    @property
    def is_none(self) -> bool:
        """Whether nothing differs."""
        return not self.fields


def change_operation(definition: Definition, policy: Policy, name: str, change: Change) -> Changed:
    """Changes one operation.

    Raises:
        KeyError: There is no such operation.
        RuleViolation: The change breaks a rule.
    """
    operation = definition.operations[name]
    group = definition.groups[operation.group]
    before = settled_policies(definition, policy)
    if change.dual is not None:
        raise RuleViolation("dual_percent_is_the_groups", f"{name}: dual_percent belongs to a group")
    if change.mirror and operation.op_class is OperationClass.WRITE:
        raise RuleViolation("mirror_reads_only", f"operation {name} is a write; only reads are mirrored")
    after = _moved(definition, group, name, before[name], change)
    if is_bound(group, operation) and (after.stage, after.percent) != (before[name].stage, before[name].percent):
        raise RuleViolation(
            "group_share",
            f"operation {name} shares stage and percent with group {group.name} (writes: {group.writes})",
            legal=_legal_for_group(group, before[name], change),
            code="group_share",
        )
    return _finish(definition, policy, before, {name: after}, policy.groups, change)


def change_group(definition: Definition, policy: Policy, name: str, change: Change) -> Changed:
    """Changes every operation of a group, and the group itself.

    Raises:
        KeyError: There is no such group.
        RuleViolation: The change breaks a rule.
    """
    group = definition.groups[name]
    before = settled_policies(definition, policy)
    if change.dual is not None and change.dual != policy.groups.get(name, GroupPolicy()).dual:
        raise RuleViolation("dual_writes", "dual writes are not available yet", code="not_yet_available")
    after = {member: _moved(definition, group, member, before[member], change) for member in group.operations}
    return _finish(definition, policy, before, after, policy.groups, change)


def _legal_for_group(group: Group, before: OperationPolicy, change: Change) -> str:
    if change.stage is not None and change.stage is not before.stage:
        return f"crossfade stage {group.name} {change.stage} --reason …"
    return f"crossfade share {group.name} {percent_of(change.percent or PPM_NONE)} --reason …"


def _moved(definition: Definition, group: Group, name: str, before: OperationPolicy, change: Change) -> OperationPolicy:
    stage = before.stage
    if change.stage is not None and change.stage is not stage:
        _check_transition(group, name, stage, change)
        stage = change.stage
    percent = _percent_after(group, name, before, stage, change)
    is_read = definition.operations[name].op_class is OperationClass.READ
    mirror = change.mirror if change.mirror is not None and is_read else before.mirror
    return OperationPolicy(stage, percent, mirror)


def _percent_after(group: Group, name: str, before: OperationPolicy, stage: Stage, change: Change) -> Ppm:
    if stage is Stage.LIVE:
        if change.percent is not None:
            return change.percent
        return before.percent if before.stage is Stage.LIVE else PPM_NONE
    fixed = PPM_ALL if rank(stage) > rank(Stage.LIVE) else PPM_NONE
    if change.percent and change.percent != fixed:
        member = name if group.implicit or not _shares_with_others(group) else group.name
        raise RuleViolation(
            "stage_has_no_share",
            f"{name} is in stage {stage}, where percent does not act; it acts in live only",
            legal=f"crossfade stage {member} live --reason …",
            code="stage_has_no_share",
        )
    return fixed


def _shares_with_others(group: Group) -> bool:
    return group.writes is not Writes.SHARED and not group.independent


def _check_transition(group: Group, name: str, stage: Stage, change: Change) -> None:
    wanted = change.stage
    assert wanted is not None
    target = group.name if _shares_with_others(group) and not group.implicit else name
    if wanted not in stages_of(group.writes):
        raise RuleViolation(
            "stage_needs_dual_writes",
            f"stage {wanted} exists for groups with writes: dual; {group.name} says writes: {group.writes}",
            legal=_legal_step(target, next_stages(group.writes, stage)),
        )
    if not TABLE[wanted].available:
        raise RuleViolation("not_yet_available", f"stage {wanted} is not available yet", code="not_yet_available")
    if stage is Stage.COMPLETE:
        raise RuleViolation("complete_is_final", f"{name}: back from complete needs accept_data_loss")
    forward = rank(wanted) > rank(stage)
    legal = next_stages(group.writes, stage) if forward else previous_stages(group.writes, stage)
    if wanted in legal or (forward and change.skip):
        return
    rule = "one_stage_at_a_time" if forward else "back_from_live_means_shadow"
    raise RuleViolation(rule, f"{name}: {stage} -> {wanted} is not one step", legal=_legal_step(target, legal))


def _legal_step(target: str, legal: tuple[Stage, ...]) -> str | None:
    open_now = [stage for stage in legal if TABLE[stage].available]
    return f"crossfade stage {target} {open_now[-1]} --reason …" if open_now else None


def _check_order_in_dual_groups(definition: Definition, after: Mapping[str, OperationPolicy]) -> None:
    """In a dual group a read may lag behind the writes, never lead."""
    for group in definition.groups.values():
        if group.writes is not Writes.DUAL or group.independent:
            continue
        members = [definition.operations[name] for name in group.operations]
        writes = [after[op.name] for op in members if op.op_class is OperationClass.WRITE]
        if not writes:
            continue
        lead = min(writes, key=lambda p: (rank(p.stage), p.percent))
        for op in members:
            mine = after[op.name]
            leads = (rank(mine.stage), mine.percent) > (rank(lead.stage), lead.percent)
            if op.op_class is OperationClass.READ and leads:
                raise RuleViolation(
                    "reads_never_lead",
                    f"operation {op.name}: read at {mine.stage} {percent_of(mine.percent)} % would lead the group's"
                    f" writes at {lead.stage} {percent_of(lead.percent)} %; raise the group first",
                    legal=f"crossfade share {group.name} {percent_of(mine.percent)} --reason …",
                )


def _finish(
    definition: Definition,
    policy: Policy,
    before: Mapping[str, OperationPolicy],
    moved: Mapping[str, OperationPolicy],
    groups: Mapping[str, GroupPolicy],
    change: Change,
) -> Changed:
    after = {**before, **moved}
    fields: dict[str, Delta] = {}
    for name, now in moved.items():
        for field, delta in _differences(before[name], now).items():
            fields.setdefault(field, delta)
    if not fields:
        return Changed(policy, {}, Role.OPERATOR)
    _check_order_in_dual_groups(definition, after)
    forward = any(rank(now.stage) > rank(before[name].stage) for name, now in moved.items())
    if forward:
        _check_not_killed(definition, policy, moved)
    role = Role.APPROVER if forward or change.skip else Role.OPERATOR
    operations = {**policy.operations, **after}
    return Changed(replace(policy, operations=operations, groups=groups), fields, role)


def _check_not_killed(definition: Definition, policy: Policy, moved: Mapping[str, OperationPolicy]) -> None:
    for name in moved:
        for scope in policy.latches:
            if covers(definition, scope, definition.operations[name]):
                raise RuleViolation(
                    "killed",
                    f"{name} is killed by {scope}; it goes forward only after that was re-armed",
                    legal=f"crossfade rearm {scope} --reason …",
                )


def _differences(before: OperationPolicy, after: OperationPolicy) -> dict[str, Delta]:
    fields: dict[str, Delta] = {}
    if before.stage is not after.stage:
        fields["stage"] = (str(before.stage), str(after.stage))
    if before.percent != after.percent:
        fields["percent"] = (percent_of(before.percent), percent_of(after.percent))
    if before.mirror != after.mirror:
        fields["mirror_percent"] = (percent_of(before.mirror), percent_of(after.mirror))
    return fields


def rearm(
    definition: Definition, policy: Policy, scope: Scope, *, percent: Ppm | None, now: datetime
) -> tuple[Policy, Latch]:
    """Removes exactly one latch. A `live` operation under it re-enters at the first step, or at `percent`.

    Args:
        definition: From the file.
        policy: Before.
        scope: The latch to remove, as it was asked for.
        percent: Share to re-enter at, at most the stored one.
        now: Aware UTC.

    Raises:
        RuleViolation: Nothing is killed at this scope, a trip is still cooling down, or `percent` exceeds what was
            stored.
    """
    latch = policy.latches.get(scope)
    if latch is None:
        standing = sorted(map(str, policy.latches))
        legal = f"crossfade rearm {standing[0]} --reason …" if standing else None
        raise RuleViolation("not_killed", f"nothing is killed at scope {scope}", legal=legal)
    ready_at = latch.at + TRIP_COOL_DOWN
    if latch.kind is LatchKind.TRIP and now < ready_at:
        seconds = int((ready_at - now).total_seconds()) + 1
        raise RuleViolation("cool_down", f"{scope} tripped and may be re-armed in {seconds} s")
    operations = dict(settled_policies(definition, policy))
    for operation in definition.operations.values():
        mine = operations[operation.name]
        if mine.stage is Stage.LIVE and covers(definition, scope, operation):
            operations[operation.name] = replace(mine, percent=_reentry(definition, operation.name, mine, percent))
    latches = {s: kept for s, kept in policy.latches.items() if s != scope}
    return replace(policy, operations={**policy.operations, **operations}, latches=latches), latch


def _reentry(definition: Definition, name: str, mine: OperationPolicy, percent: Ppm | None) -> Ppm:
    if percent is None:
        return Ppm(min(mine.percent, definition.steps[0]))
    if percent > mine.percent:
        raise RuleViolation(
            "rearm_within_stored",
            f"{name} stood at {percent_of(mine.percent)} % before the kill; re-arm at or below that, then raise it",
            legal=f"crossfade rearm … --percent {percent_of(mine.percent)} --reason …",
        )
    return percent


def kill_is_lossless(definition: Definition, policy: Policy, scope: Scope) -> bool:
    """Whether a kill of `scope` loses no write: nothing under it is `complete`, where old no longer follows."""
    settled = settled_policies(definition, policy)
    return not any(
        settled[operation.name].stage is Stage.COMPLETE and covers(definition, scope, operation)
        for operation in definition.operations.values()
    )


def scope_exists(definition: Definition, scope: Scope) -> bool:
    """Whether `scope` names something of this definition. Implicit groups are killed by their operation."""
    match scope.kind:
        case ScopeKind.ALL:
            return True
        case ScopeKind.GROUP:
            return scope.name in definition.groups and not definition.groups[scope.name].implicit
        case ScopeKind.OPERATION:
            return scope.name in definition.operations


def initial_policy(definition: Definition, wishes: FilePolicy, lineage: str) -> Policy:
    """The policy of a first boot: what the file says."""
    return Policy(
        migration=definition.migration,
        lineage=lineage,
        epoch=Epoch(1),
        operations=dict(wishes.operations),
        groups=dict(wishes.groups),
    )


def adopt_new(definition: Definition, policy: Policy, wishes: FilePolicy) -> Policy | None:
    """The policy with the file's values for operations and groups that it does not know; None when it knows all.

    An operation that is bound to a known group follows that group instead.
    """
    unknown = [name for name in definition.operations if name not in policy.operations]
    new_groups = {
        name: wishes.groups[name] for name in wishes.groups if name not in policy.groups and name in definition.groups
    }
    if not unknown and not new_groups:
        return None
    settled = settled_policies(definition, policy)
    operations = dict(policy.operations)
    for name in unknown:
        operation = definition.operations[name]
        group = definition.groups[operation.group]
        follows = is_bound(group, operation) and any(member in policy.operations for member in group.operations)
        operations[name] = settled[name] if follows else wishes.operations[name]
    return replace(policy, operations=operations, groups={**policy.groups, **new_groups})


def difference(definition: Definition, policy: Policy, wishes: FilePolicy) -> dict[str, dict[str, Delta]]:
    """Where the stored policy differs from the file's: target -> field -> (stored, file's)."""
    settled = settled_policies(definition, policy)
    found: dict[str, dict[str, Delta]] = {}
    for name in definition.operations:
        fields = _differences(settled[name], wishes.operations[name])
        if fields:
            found[f"operation {name}"] = fields
    for name, wished in wishes.groups.items():
        stored = policy.groups.get(name, GroupPolicy())
        group_fields: dict[str, Delta] = {}
        if stored.dual != wished.dual:
            group_fields["dual_percent"] = (percent_of(stored.dual), percent_of(wished.dual))
        if stored.allow != wished.allow:
            group_fields["allow"] = (sorted(stored.allow), sorted(wished.allow))
        if stored.deny != wished.deny:
            group_fields["deny"] = (sorted(stored.deny), sorted(wished.deny))
        if group_fields:
            found[f"group {name}"] = group_fields
    return found


def apply_file(definition: Definition, policy: Policy, wishes: FilePolicy, *, skip: bool = False) -> Changed:
    """Makes the file's policy current. Kills stay: a file never re-arms.

    Raises:
        RuleViolation: A stage of the file is not one legal step away (and `skip` was not said), or not available.
    """
    before = settled_policies(definition, policy)
    fields: dict[str, Delta] = {}
    for target, deltas in difference(definition, policy, wishes).items():
        for field, delta in deltas.items():
            fields[f"{target}: {field}"] = delta
    moved = {name: wishes.operations[name] for name in definition.operations}
    for name, wished in moved.items():
        if wished.stage is not before[name].stage:
            group = definition.groups[definition.operations[name].group]
            _check_transition(group, name, before[name].stage, Change(stage=wished.stage, skip=skip))
    if not fields:
        return Changed(policy, {}, Role.APPROVER)
    finished = _finish(definition, policy, before, moved, {**policy.groups, **wishes.groups}, Change(skip=skip))
    after = replace(
        policy,
        operations={**policy.operations, **(finished.policy.operations if finished.fields else moved)},
        groups={**policy.groups, **wishes.groups},
    )
    return Changed(after, fields, Role.APPROVER)
