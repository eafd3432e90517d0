"""A file's wishes, as they come over the wire: filled up with what is stored, checked like any other change. Pure."""

from __future__ import annotations

from gateway.control.bodies import GroupWishes, OperationWishes, PolicyWishes
from gateway.control.problems import Code, Refused
from gateway.core.file_policy import FilePolicy, PolicyField
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
from gateway.core.percent import percent_of
from gateway.core.rules import RuleViolation
from gateway.core.snapshot import is_bound, settled_policies
from gateway.core.stages import rank


def complete_wishes(definition: Definition, policy: Policy, wishes: FilePolicy) -> FilePolicy:
    """The file's policy with stored values where the file says nothing: defaults must not overrule what was moved."""
    settled = settled_policies(definition, policy)
    operations = {}
    for name, stored in settled.items():
        said = wishes.said_of_operations.get(name, frozenset())
        operations[name] = _complete(stored, wishes.operations.get(name, OperationPolicy()), said)
    groups = {}
    for name in definition.groups:
        stored_group = policy.groups.get(name, GroupPolicy())
        wished = wishes.groups.get(name, GroupPolicy())
        said = wishes.said_of_groups.get(name, frozenset())
        groups[name] = GroupPolicy(
            dual=wished.dual if PolicyField.DUAL_PERCENT in said else stored_group.dual,
            allow=wished.allow if PolicyField.ALLOW in said else stored_group.allow,
            deny=wished.deny if PolicyField.DENY in said else stored_group.deny,
        )
    return FilePolicy(operations, groups, wishes.said_of_operations, wishes.said_of_groups)


def _complete(stored: OperationPolicy, wished: OperationPolicy, said: frozenset[PolicyField]) -> OperationPolicy:
    stage = wished.stage if PolicyField.STAGE in said else stored.stage
    percent = stored.percent if stage is stored.stage else _percent_on_entry(stage)
    return OperationPolicy(
        stage,
        wished.percent if PolicyField.PERCENT in said else percent,
        wished.mirror if PolicyField.MIRROR_PERCENT in said else stored.mirror,
    )


def _percent_on_entry(stage: Stage) -> Ppm:
    return PPM_ALL if rank(stage) > rank(Stage.LIVE) else PPM_NONE


def wishes_of(definition: Definition, body: PolicyWishes) -> FilePolicy:
    """What a body asks for.

    Raises:
        Refused: It names an operation or a group that does not exist.
    """
    for name in body.operations:
        if name not in definition.operations:
            raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {name[:80]!r}")
    for name in body.groups:
        if name not in definition.groups:
            raise Refused(Code.UNKNOWN_GROUP, f"there is no group {name[:80]!r}")
    return FilePolicy(
        operations={name: _operation(wish) for name, wish in body.operations.items()},
        groups={name: _group(wish) for name, wish in body.groups.items()},
        said_of_operations={name: _said(wish) for name, wish in body.operations.items()},
        said_of_groups={name: _said(wish) for name, wish in body.groups.items()},
    )


def _operation(wish: OperationWishes) -> OperationPolicy:
    return OperationPolicy(wish.stage or Stage.OFF, wish.percent or PPM_NONE, wish.mirror_percent or PPM_NONE)


def _group(wish: GroupWishes) -> GroupPolicy:
    return GroupPolicy(wish.dual_percent or PPM_NONE, frozenset(wish.allow or ()), frozenset(wish.deny or ()))


def _said(wish: OperationWishes | GroupWishes) -> frozenset[PolicyField]:
    return frozenset(PolicyField(name) for name in wish.model_fields_set)


def check_wishes(definition: Definition, policy: Policy, wishes: FilePolicy) -> None:
    """Refuses wishes that no file could hold; the loader of files checks the same.

    Args:
        definition: From the file.
        policy: As stored.
        wishes: Completed.

    Raises:
        RuleViolation: With the rule.
    """
    for name, wished in wishes.operations.items():
        _check_operation(definition, name, wished)
    for group in definition.groups.values():
        bound = [name for name in group.operations if is_bound(group, definition.operations[name])]
        if len({(wishes.operations[name].stage, wishes.operations[name].percent) for name in bound}) > 1:
            raise RuleViolation(
                "group_share",
                f"the operations of group {group.name} (writes: {group.writes}) share one stage and percent",
                code="group_share",
            )
        if wishes.groups[group.name].dual != policy.groups.get(group.name, GroupPolicy()).dual:
            raise RuleViolation("dual_writes", "dual writes are not available yet", code="not_yet_available")


def _check_operation(definition: Definition, name: str, wished: OperationPolicy) -> None:
    if wished.stage is not Stage.LIVE and wished.percent not in (PPM_NONE, _percent_on_entry(wished.stage)):
        raise RuleViolation(
            "stage_has_no_share",
            f"operation {name}: {percent_of(wished.percent)} % in stage {wished.stage}; percent acts in live only",
            legal=f"crossfade stage {name} live --reason …",
            code="stage_has_no_share",
        )
    if wished.mirror and definition.operations[name].op_class is OperationClass.WRITE:
        raise RuleViolation("mirror_reads_only", f"operation {name} is a write; only reads are mirrored")
