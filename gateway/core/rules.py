"""The rules that every change of the policy must keep, whoever asks for it.

Pure. A violation names the rule and a command that would be legal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.core.detect.guard import POOLED
from gateway.core.model import (
    Definition,
    Group,
    Operation,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    Stage,
    Writes,
)
from gateway.core.percent import percent_of
from gateway.core.snapshot import covers, lead_of, progress, settled_policies
from gateway.core.stages import TABLE, next_stages, previous_stages, rank, stages_of

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
class Standing:
    """An operation before a change, and what says how it may move."""

    definition: Definition
    policy: Policy
    operation: Operation
    at: OperationPolicy

    @property
    def name(self) -> str:
        """Of the operation."""
        return self.operation.name

    @property
    def group(self) -> Group:
        """Of the operation."""
        return self.definition.groups[self.operation.group]

    @property
    def moves_together(self) -> bool:
        """Whether commands name the group: its operations share a stage, or must not get ahead of it."""
        return not self.group.implicit and self.group.writes is not Writes.SHARED and not self.group.independent

    @property
    def target(self) -> str:
        """What commands name: the group, or the operation."""
        return self.group.name if self.moves_together else self.name

    def step_to(self, stages: tuple[Stage, ...], *, skip: bool = False) -> str | None:
        """The command that enters the last of these stages that can be entered; the re-arm that it needs first."""
        available = [stage for stage in stages if TABLE[stage].available]
        if not available:
            return None
        members = self.group.operations if self.moves_together else (self.name,)
        killed = kills_of(self.definition, self.policy, members)
        if killed and rank(available[-1]) > rank(self.at.stage):
            return f"crossfade rearm {killed[0]} --reason …"
        return f"crossfade stage {self.target} {available[-1]}{' --skip' if skip else ''} --reason …"

    def share_of(self, percent: Ppm) -> str:
        """The command that sets a share."""
        return f"crossfade share {self.target} {percent_of(percent)} --reason …"


def standings(definition: Definition, policy: Policy) -> dict[str, Standing]:
    """Where every operation stands."""
    settled = settled_policies(definition, policy)
    return {name: Standing(definition, policy, definition.operations[name], settled[name]) for name in settled}


def check_transition(standing: Standing, wanted: Stage, *, skip: bool) -> None:
    """Holds a step to another stage against the table.

    Raises:
        RuleViolation: It is not a legal one, or not available.
    """
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


def _check_order_in_dual_groups(before: Mapping[str, Standing], after: Mapping[str, OperationPolicy]) -> None:
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


def check_together(
    before: Mapping[str, Standing], moved: Mapping[str, OperationPolicy]
) -> tuple[dict[str, OperationPolicy], bool]:
    """All operations after a move, held against the rules that concern several; and whether any went forward."""
    after = {**{name: standing.at for name, standing in before.items()}, **moved}
    _check_order_in_dual_groups(before, after)
    forward = [name for name, now in moved.items() if rank(now.stage) > rank(before[name].at.stage)]
    for name in forward:
        killed = kills_of(before[name].definition, before[name].policy, (name,))
        if killed:
            raise RuleViolation(
                "killed",
                f"{name} is killed by {killed[0]}; it goes forward only after that was re-armed",
                legal=f"crossfade rearm {killed[0]} --reason …",
            )
    return after, bool(forward)


def check_holds(
    definition: Definition, before: Policy, after: Policy, holds: Mapping[str, str], *, skip: bool
) -> str | None:
    """Holds a move against what detectors warn of: nothing more goes to new meanwhile. Less always may.

    Args:
        definition: From the file.
        before: The policy before.
        after: And after.
        holds: By operation, or `core.detect.guard.POOLED` for all: what a detector says.
        skip: It was asked for anyway, by whoever may.

    Returns:
        What was passed over, or None.

    Raises:
        RuleViolation: A detector holds, and the move sends more to new.
    """
    was, will_be = standings(definition, before), settled_policies(definition, after)
    for name, standing in was.items():
        if progress(will_be[name]) <= progress(standing.at):
            continue
        why = holds.get(name) or holds.get(POOLED)
        if why is None:
            continue
        if skip:
            return f"{name}: {why}"
        is_step = will_be[name].stage is not standing.at.stage
        command = standing.step_to((will_be[name].stage,), skip=True) if is_step else None
        raise RuleViolation(
            "detector_hold",
            f"{name}: a detector holds ({why}); wait until it clears, or an approver says skip",
            legal=command or standing.share_of(will_be[name].percent).replace(" --reason", " --skip --reason"),
        )
    return None


def kills_of(definition: Definition, policy: Policy, operations: Iterable[str]) -> list[Scope]:
    """The latches that cover one of these operations."""
    members = [definition.operations[name] for name in operations]
    return sorted(scope for scope in policy.latches if any(covers(definition, scope, op) for op in members))


def differences(before: OperationPolicy, after: OperationPolicy) -> dict[str, Delta]:
    """What differs, by field."""
    fields: dict[str, Delta] = {}
    if before.stage is not after.stage:
        fields["stage"] = (str(before.stage), str(after.stage))
    if before.percent != after.percent:
        fields["percent"] = (percent_of(before.percent), percent_of(after.percent))
    if before.mirror != after.mirror:
        fields["mirror_percent"] = (percent_of(before.mirror), percent_of(after.mirror))
    return fields
