"""What operators may change, and the rules that a change must keep.

Pure: takes a definition and a policy, gives the policy after the change and what changed, or raises a `RuleViolation`
that names the rule and a command that would be legal. Storing the result is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
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
    Operation,
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
from gateway.core.snapshot import covers, is_bound, lead_of, progress, settled_policies
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


@dataclass(frozen=True, slots=True)
class _Standing:
    """An operation before a change, and what says how it may move."""

    definition: Definition
    policy: Policy
    operation: Operation
    at: OperationPolicy

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def group(self) -> Group:
        return self.definition.groups[self.operation.group]

    @property
    def moves_together(self) -> bool:
        """Whether commands name the group: its operations share a stage, or must not get ahead of it."""
        return not self.group.implicit and self.group.writes is not Writes.SHARED and not self.group.independent

    @property
    def target(self) -> str:
        return self.group.name if self.moves_together else self.name

    def step_to(self, stages: tuple[Stage, ...], *, skip: bool = False) -> str | None:
        """The command that enters the last of these stages that can be entered; the re-arm that it needs first."""
        available = [stage for stage in stages if TABLE[stage].available]
        if not available:
            return None
        members = self.group.operations if self.moves_together else (self.name,)
        killed = _kills(self.definition, self.policy, members)
        if killed and rank(available[-1]) > rank(self.at.stage):
            return f"crossfade rearm {killed[0]} --reason …"
        return f"crossfade stage {self.target} {available[-1]}{' --skip' if skip else ''} --reason …"

    def share_of(self, percent: Ppm) -> str:
        """The command that sets a share."""
        return f"crossfade share {self.target} {percent_of(percent)} --reason …"


def _standing(definition: Definition, policy: Policy) -> dict[str, _Standing]:
    settled = settled_policies(definition, policy)
    return {name: _Standing(definition, policy, definition.operations[name], settled[name]) for name in settled}


def change_operation(definition: Definition, policy: Policy, name: str, change: Change) -> Changed:
    """Changes one operation.

    Raises:
        KeyError: There is no such operation.
        RuleViolation: The change breaks a rule.
    """
    operation = definition.operations[name]
    group = definition.groups[operation.group]
    before = _standing(definition, policy)
    standing = before[name]
    if change.dual is not None:
        raise RuleViolation("dual_percent_is_the_groups", f"{name}: dual_percent belongs to a group")
    if change.mirror and operation.op_class is OperationClass.WRITE:
        raise RuleViolation("mirror_reads_only", f"operation {name} is a write; only reads are mirrored")
    after = _moved(standing, change)
    if is_bound(group, operation) and progress(after) != progress(standing.at):
        is_step = after.stage is not standing.at.stage
        raise RuleViolation(
            "group_share",
            f"operation {name} shares stage and percent with group {group.name} (writes: {group.writes})",
            legal=standing.step_to((after.stage,), skip=change.skip) if is_step else standing.share_of(after.percent),
            code="group_share",
        )
    return _finish(before, {name: after}, change)


def change_group(definition: Definition, policy: Policy, name: str, change: Change) -> Changed:
    """Changes every operation of a group, and the group itself.

    A share leaves the reads of a dual group alone that lag behind in an earlier stage.

    Raises:
        KeyError: There is no such group.
        RuleViolation: The change breaks a rule.
    """
    group = definition.groups[name]
    before = _standing(definition, policy)
    if change.dual is not None and change.dual != policy.groups.get(name, GroupPolicy()).dual:
        raise RuleViolation("dual_writes", "dual writes are not available yet", code="not_yet_available")
    lead = lead_of(definition, group, {member: before[member].at for member in group.operations})
    after = {}
    for member in group.operations:
        lags = lead is not None and change.stage is None and rank(before[member].at.stage) < rank(lead.stage)
        after[member] = _moved(before[member], replace(change, percent=None) if lags else change)
    return _finish(before, after, change)


def _moved(standing: _Standing, change: Change) -> OperationPolicy:
    stage = standing.at.stage
    if change.stage is not None and change.stage is not stage:
        _check_transition(standing, change.stage, skip=change.skip)
        stage = change.stage
    percent = _percent_after(standing, stage, change)
    is_read = standing.operation.op_class is OperationClass.READ
    mirror = change.mirror if change.mirror is not None and is_read else standing.at.mirror
    return OperationPolicy(stage, percent, mirror)


def _percent_after(standing: _Standing, stage: Stage, change: Change) -> Ppm:
    if stage is Stage.LIVE:
        if change.percent is not None:
            return change.percent
        return standing.at.percent if standing.at.stage is Stage.LIVE else PPM_NONE
    fixed = PPM_ALL if rank(stage) > rank(Stage.LIVE) else PPM_NONE
    if change.percent and change.percent != fixed:
        if standing.at.stage is Stage.LIVE:
            legal: str | None = standing.share_of(change.percent)
        elif Stage.LIVE in next_stages(standing.group.writes, standing.at.stage):
            legal = standing.step_to((Stage.LIVE,))
        else:
            legal = standing.step_to(previous_stages(standing.group.writes, standing.at.stage))
        raise RuleViolation(
            "stage_has_no_share",
            f"{standing.name} would be in stage {stage}, where percent does not act; it acts in live only",
            legal=legal,
            code="stage_has_no_share",
        )
    return fixed


def _check_transition(standing: _Standing, wanted: Stage, *, skip: bool) -> None:
    writes, stage = standing.group.writes, standing.at.stage
    is_forward = rank(wanted) > rank(stage)
    legal = next_stages(writes, stage) if is_forward else previous_stages(writes, stage)
    if wanted not in stages_of(writes):
        raise RuleViolation(
            "stage_needs_dual_writes",
            f"stage {wanted} exists for groups with writes: dual; {standing.group.name} says writes: {writes}",
            legal=standing.step_to(legal),
        )
    if not TABLE[wanted].available:
        raise RuleViolation("not_yet_available", f"stage {wanted} is not available yet", code="not_yet_available")
    if stage is Stage.COMPLETE:
        raise RuleViolation("complete_is_final", f"{standing.name}: back from complete needs accept_data_loss")
    if wanted in legal or (is_forward and skip):
        return
    rule = "one_stage_at_a_time" if is_forward else "back_from_live_means_shadow"
    message = f"{standing.name}: {stage} -> {wanted} is not one step"
    raise RuleViolation(rule, message, legal=standing.step_to(legal))


def _check_order_in_dual_groups(before: Mapping[str, _Standing], after: Mapping[str, OperationPolicy]) -> None:
    """In a dual group a read may lag behind the writes, never lead."""
    for name, standing in before.items():
        group, mine = standing.group, after[name]
        lead = lead_of(standing.definition, group, after)
        if lead is None or progress(mine) <= progress(lead):
            continue
        if mine.stage is lead.stage:
            legal: str | None = standing.share_of(mine.percent)
        else:
            can_follow = mine.stage in next_stages(group.writes, lead.stage)
            legal = standing.step_to((mine.stage,)) if can_follow else None
        raise RuleViolation(
            "reads_never_lead",
            f"operation {name}: read at {mine.stage} {percent_of(mine.percent)} % would lead the group's"
            f" writes at {lead.stage} {percent_of(lead.percent)} %; move the group first",
            legal=legal,
        )


def _finish(before: Mapping[str, _Standing], moved: Mapping[str, OperationPolicy], change: Change) -> Changed:
    fields: dict[str, Delta] = {}
    for name, now in moved.items():
        for field, delta in _differences(before[name].at, now).items():
            fields.setdefault(field, delta)
    policy = next(iter(before.values())).policy
    if not fields:
        return Changed(policy, {}, Role.OPERATOR)
    operations, is_forward = _checked(before, moved)
    role = Role.APPROVER if is_forward or change.skip else Role.OPERATOR
    return Changed(replace(policy, operations={**policy.operations, **operations}), fields, role)


def _checked(
    before: Mapping[str, _Standing], moved: Mapping[str, OperationPolicy]
) -> tuple[dict[str, OperationPolicy], bool]:
    """All operations after a move, held against the rules that concern several; and whether any went forward."""
    after = {**{name: standing.at for name, standing in before.items()}, **moved}
    _check_order_in_dual_groups(before, after)
    forward = [name for name, now in moved.items() if rank(now.stage) > rank(before[name].at.stage)]
    for name in forward:
        killed = _kills(before[name].definition, before[name].policy, (name,))
        if killed:
            raise RuleViolation(
                "killed",
                f"{name} is killed by {killed[0]}; it goes forward only after that was re-armed",
                legal=f"crossfade rearm {killed[0]} --reason …",
            )
    return after, bool(forward)


def _kills(definition: Definition, policy: Policy, operations: Iterable[str]) -> list[Scope]:
    """The latches that cover one of these operations."""
    members = [definition.operations[name] for name in operations]
    return sorted(scope for scope in policy.latches if any(covers(definition, scope, op) for op in members))


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
        percent: Share to re-enter at, at most the highest stored one under the scope.
        now: Aware UTC.

    Raises:
        RuleViolation: Nothing is killed at this scope, a trip is still cooling down, or `percent` exceeds what was
            stored.
    """
    latch = policy.latches.get(scope)
    if latch is None:
        ready = sorted(standing for standing, held in policy.latches.items() if not _cools_down(held, now))
        legal = f"crossfade rearm {ready[0]} --reason …" if ready else None
        raise RuleViolation("not_killed", f"nothing is killed at scope {scope}", legal=legal)
    if _cools_down(latch, now):
        seconds = ceil((latch.at + TRIP_COOL_DOWN - now).total_seconds())
        raise RuleViolation("cool_down", f"{scope} tripped and may be re-armed in {seconds} s")
    operations = dict(settled_policies(definition, policy))
    under = [
        operation.name
        for operation in definition.operations.values()
        if operations[operation.name].stage is Stage.LIVE and covers(definition, scope, operation)
    ]
    most = max((operations[name].percent for name in under), default=PPM_NONE)
    if under and percent is not None and percent > most:
        raise RuleViolation(
            "rearm_within_stored",
            f"{scope} stood at {percent_of(most)} % before the kill; re-arm at or below that, then raise it",
            legal=f"crossfade rearm {scope} --percent {percent_of(most)} --reason …",
        )
    entry = definition.steps[0] if percent is None else percent
    for name in under:
        # What stood lower stays there: a re-arm raises nothing.
        operations[name] = replace(operations[name], percent=Ppm(min(operations[name].percent, entry)))
    latches = {s: kept for s, kept in policy.latches.items() if s != scope}
    return replace(policy, operations={**policy.operations, **operations}, latches=latches), latch


def _cools_down(latch: Latch, now: datetime) -> bool:
    return latch.kind is LatchKind.TRIP and now < latch.at + TRIP_COOL_DOWN


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

    An operation that is bound to a known group follows that group instead, and a read of a dual group never leads it.
    """
    unknown = [name for name in definition.operations if name not in policy.operations]
    new_groups = {
        name: wishes.groups[name] for name in wishes.groups if name not in policy.groups and name in definition.groups
    }
    if not unknown and not new_groups:
        return None
    operations = dict(policy.operations)
    for name in unknown:
        group = definition.groups[definition.operations[name].group]
        bound = [member for member in group.operations if is_bound(group, definition.operations[member])]
        if name not in bound or not any(member in policy.operations for member in bound):
            operations[name] = wishes.operations[name]
    adopted = replace(policy, operations=operations, groups={**policy.groups, **new_groups})
    settled = settled_policies(definition, adopted)
    new = {name: replace(settled[name], mirror=wishes.operations[name].mirror) for name in unknown}
    return replace(adopted, operations={**operations, **new})


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
    before = _standing(definition, policy)
    moved = {name: wishes.operations[name] for name in definition.operations}
    for name, wished in moved.items():
        if wished.stage is not before[name].at.stage:
            _check_transition(before[name], wished.stage, skip=skip)
    fields = {
        f"{target}: {field}": delta
        for target, deltas in difference(definition, policy, wishes).items()
        for field, delta in deltas.items()
    }
    if not fields:
        return Changed(policy, {}, Role.APPROVER)
    operations, _ = _checked(before, moved)
    groups = {**policy.groups, **wishes.groups}
    return Changed(
        replace(policy, operations={**policy.operations, **operations}, groups=groups), fields, Role.APPROVER
    )
