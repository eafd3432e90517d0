"""What operators may change: stage and shares of an operation or a group.

Pure: takes a definition and a policy, gives the policy after the change and what changed, or raises a `RuleViolation`.
Storing the result is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.core.model import (
    PPM_ALL,
    PPM_NONE,
    Definition,
    GroupPolicy,
    OperationClass,
    OperationPolicy,
    Policy,
    Ppm,
    Stage,
)
from gateway.core.roles import Role
from gateway.core.rules import (
    Delta,
    RuleViolation,
    Standing,
    check_together,
    check_transition,
    differences,
    standings,
)
from gateway.core.snapshot import is_bound, lead_of, progress
from gateway.core.stages import next_stages, previous_stages, rank


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
    before = standings(definition, policy)
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
    before = standings(definition, policy)
    if change.dual is not None and change.dual != policy.groups.get(name, GroupPolicy()).dual:
        raise RuleViolation("dual_writes", "dual writes are not available yet", code="not_yet_available")
    lead = lead_of(definition, group, {member: before[member].at for member in group.operations})
    after = {}
    for member in group.operations:
        lags = lead is not None and change.stage is None and rank(before[member].at.stage) < rank(lead.stage)
        after[member] = _moved(before[member], replace(change, percent=None) if lags else change)
    return _finish(before, after, change)


def _moved(standing: Standing, change: Change) -> OperationPolicy:
    stage = standing.at.stage
    if change.stage is not None and change.stage is not stage:
        check_transition(standing, change.stage, skip=change.skip)
        stage = change.stage
    percent = _percent_after(standing, stage, change)
    is_read = standing.operation.op_class is OperationClass.READ
    mirror = change.mirror if change.mirror is not None and is_read else standing.at.mirror
    return OperationPolicy(stage, percent, mirror)


def _percent_after(standing: Standing, stage: Stage, change: Change) -> Ppm:
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


def _finish(before: Mapping[str, Standing], moved: Mapping[str, OperationPolicy], change: Change) -> Changed:
    fields: dict[str, Delta] = {}
    for name, now in moved.items():
        for field, delta in differences(before[name].at, now).items():
            fields.setdefault(field, delta)
    policy = next(iter(before.values())).policy
    if not fields:
        return Changed(policy, {}, Role.OPERATOR)
    operations, is_forward = check_together(before, moved)
    role = Role.APPROVER if is_forward or change.skip else Role.OPERATOR
    return Changed(replace(policy, operations={**policy.operations, **operations}), fields, role)
