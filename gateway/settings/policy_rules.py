"""What a file wishes of the policy: who inherits from the group, and the rules that stages and shares must keep.

The same rules stand in front of every change by an operator (`core.changes`); here they are held against a file, and
each breach is told with its line.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.file_policy import FilePolicy, PolicyField
from gateway.core.model import (
    PPM_ALL,
    PPM_NONE,
    Definition,
    Group,
    GroupPolicy,
    OperationClass,
    OperationPolicy,
    Ppm,
    Stage,
    Writes,
)
from gateway.core.percent import format_percent
from gateway.core.snapshot import is_bound
from gateway.core.stages import DUAL_WRITES_BUILT, ORDER, TABLE, rank, share_in, stages_of
from gateway.settings.findings import Findings
from gateway.settings.migration_file import GroupShape, MigrationShape, OperationShape
from gateway.settings.problems import KeyPath


@dataclass(frozen=True, slots=True)
class _Said:
    """A value that the file says, and where."""

    value: Stage | Ppm
    path: KeyPath

    def __str__(self) -> str:
        return str(self.value) if isinstance(self.value, Stage) else format_percent(Ppm(self.value))


def wished_policy(definition: Definition, shape: MigrationShape, findings: Findings) -> FilePolicy:
    """Compiles the wishes of a file, and reports every rule that they break."""
    operations: dict[str, OperationPolicy] = {}
    said_of_operations: dict[str, frozenset[PolicyField]] = {}
    groups: dict[str, GroupPolicy] = {}
    said_of_groups: dict[str, frozenset[PolicyField]] = {}
    for group in definition.groups.values():
        group_shape = None if group.implicit else shape.groups[group.name]
        groups[group.name], said_of_groups[group.name] = _group_policy(group_shape)
        stage, percent = _followed(definition, shape, group, findings)
        for name in group.operations:
            mine = shape.operations[name]
            operations[name], said_of_operations[name] = _operation_policy(mine, stage, percent)
            _check_operation(name, mine, group, operations[name], findings)
        if group_shape is not None:
            is_live = any(operations[name].stage is Stage.LIVE for name in group.operations)
            if group_shape.percent and not is_live and not (stage and stage.value is Stage.LIVE):
                path: KeyPath = ("groups", group.name, "percent")
                _refuse_share(group_shape.percent, Stage(str(stage or Stage.OFF)), path, findings)
            _check_group(group, group_shape, findings)
        _check_reads_do_not_lead(definition, group, operations, findings)
        _check_protection(definition, group, groups[group.name], operations, findings)
    in_order = {name: operations[name] for name in definition.operations}
    return FilePolicy(in_order, groups, said_of_operations, said_of_groups)


def _group_policy(shape: GroupShape | None) -> tuple[GroupPolicy, frozenset[PolicyField]]:
    if shape is None:
        return GroupPolicy(), frozenset()
    values = {
        PolicyField.DUAL_PERCENT: shape.dual_percent,
        PolicyField.ALLOW: shape.allow,
        PolicyField.DENY: shape.deny,
    }
    policy = GroupPolicy(
        dual=shape.dual_percent or PPM_NONE,
        allow=frozenset(shape.allow or ()),
        deny=frozenset(shape.deny or ()),
    )
    return policy, frozenset(field for field, value in values.items() if value is not None)


def _followed(
    definition: Definition, shape: MigrationShape, group: Group, findings: Findings
) -> tuple[_Said | None, _Said | None]:
    """The stage and the percent that members of a group follow when they say none of their own.

    The group's, or else what its bound operations say; they must all say the same.
    """
    bound = [name for name in group.operations if is_bound(group, definition.operations[name])]
    stages = [] if group.implicit else _said(("groups", group.name, "stage"), shape.groups[group.name].stage)
    shares = [] if group.implicit else _said(("groups", group.name, "percent"), shape.groups[group.name].percent)
    for name in bound:
        stages += _said(("operations", name, "stage"), shape.operations[name].stage)
        shares += _said(("operations", name, "percent"), shape.operations[name].percent)
    for values in (stages, shares):
        for other in values[1:]:
            if other.value != values[0].value:
                who = "all operations" if group.writes is Writes.NONE else "all writes"
                findings.contradiction(
                    other.path,
                    f"{other} differs from {values[0]} on line {findings.line(values[0].path)}, but {who} of group"
                    f" {group.name} (writes: {group.writes}) move together; write it once, as"
                    f" groups.{group.name}.{other.path[-1]}",
                )
    return next(iter(stages), None), next(iter(shares), None)


def _said(path: KeyPath, value: Stage | Ppm | None) -> list[_Said]:
    return [] if value is None else [_Said(value, path)]


def _operation_policy(
    shape: OperationShape, group_stage: _Said | None, group_percent: _Said | None
) -> tuple[OperationPolicy, frozenset[PolicyField]]:
    said = set()
    stage = Stage.OFF
    if shape.stage is not None or group_stage is not None:
        said.add(PolicyField.STAGE)
        stage = shape.stage if shape.stage is not None else Stage(str(group_stage))
    percent = share_in(stage, PPM_NONE)
    if shape.percent is not None:
        said.add(PolicyField.PERCENT)
        percent = Ppm(max(percent, shape.percent))
    elif group_percent is not None and stage is Stage.LIVE:
        said.add(PolicyField.PERCENT)
        percent = Ppm(int(group_percent.value))
    if shape.mirror_percent is not None:
        said.add(PolicyField.MIRROR_PERCENT)
    return OperationPolicy(stage, percent, shape.mirror_percent or PPM_NONE), frozenset(said)


def _check_group(group: Group, shape: GroupShape, findings: Findings) -> None:
    here: KeyPath = ("groups", group.name)
    if shape.stage is not None:
        _check_stage(shape.stage, group, (*here, "stage"), findings)
    if group.writes is not Writes.DUAL and shape.dual_percent:
        findings.contradiction(
            (*here, "dual_percent"),
            f"writes: {group.writes} copies nothing, so there is no share to copy; remove it, or write writes: dual",
        )
    if shape.independent and (group.writes is not Writes.DUAL or shape.dual_percent != PPM_ALL):
        findings.contradiction(
            (*here, "independent"),
            "is for groups with writes: dual and dual_percent: 100 only, where every key is kept on both sides;"
            " write both, or remove it",
        )
    both = sorted(set(shape.allow or ()) & set(shape.deny or ()))
    if both:
        findings.contradiction((*here, "deny"), f'names "{both[0]}", which stands in allow as well; keep one')
    for field, keys in (("allow", shape.allow), ("deny", shape.deny)):
        _check_keys(group, keys or [], (*here, field), findings)


def _check_keys(group: Group, keys: list[str], path: KeyPath, findings: Findings) -> None:
    sizes = {len(recipe) for recipe in group.recipes}
    for index, key in enumerate(keys):
        parts = key.split("/")
        if not all(part == part.strip() and part for part in parts):
            findings.error((*path, index), f'"{key}" is no key: a part is empty or has spaces around it')
        elif sizes and len(parts) not in sizes:
            wanted = " or ".join(map(str, sorted(sizes)))
            findings.warn(
                (*path, index),
                f'"{key}" has {len(parts)} parts and keys of this group have {wanted}: it matches nothing',
            )


def _check_operation(
    name: str, shape: OperationShape, group: Group, policy: OperationPolicy, findings: Findings
) -> None:
    here: KeyPath = ("operations", name)
    if shape.stage is not None:
        _check_stage(shape.stage, group, (*here, "stage"), findings)
    if shape.percent and policy.stage is not Stage.LIVE:
        _refuse_share(shape.percent, policy.stage, (*here, "percent"), findings)
    if shape.mirror_percent and shape.op_class is OperationClass.WRITE:
        findings.contradiction((*here, "mirror_percent"), "is for reads: a mirrored write is done twice; remove it")


def _check_stage(stage: Stage, group: Group, path: KeyPath, findings: Findings) -> None:
    if stage not in stages_of(group.writes):
        findings.contradiction(
            path,
            f"{stage} exists for groups with writes: dual only, and {group.name} has writes: {group.writes};"
            f" write one of {', '.join(stages_of(group.writes))}",
        )
    elif not TABLE[stage].available:
        available = [str(known) for known in ORDER if TABLE[known].available]
        findings.contradiction(path, f"{stage} is not available in this version; write one of {', '.join(available)}")


def _refuse_share(percent: Ppm, stage: Stage, path: KeyPath, findings: Findings) -> None:
    findings.contradiction(
        path,
        f"stage {stage} has no share, so {format_percent(percent)} cannot act (stage_has_no_share);"
        " write stage: live, or percent: 0",
    )


def _check_reads_do_not_lead(
    definition: Definition, group: Group, operations: dict[str, OperationPolicy], findings: Findings
) -> None:
    """In a dual group a read may lag behind the writes, never lead: it would not find what was just written."""
    if group.writes is not Writes.DUAL or group.independent:
        return
    writes = [operations[name] for name in group.operations if _is_write(definition, name)]
    if not writes:
        return
    lead = min(writes, key=_progress)
    for name in group.operations:
        mine = operations[name]
        if not _is_write(definition, name) and _progress(mine) > _progress(lead):
            field = "stage" if rank(mine.stage) > rank(lead.stage) else "percent"
            findings.contradiction(
                ("operations", name, field),
                f"a read at {_at(mine)} leads the writes of group {group.name} at {_at(lead)} and would not find what"
                f" they wrote; write at most {_at(lead)}, or raise groups.{group.name}",
            )


def _check_protection(
    definition: Definition,
    group: Group,
    group_policy: GroupPolicy,
    operations: dict[str, OperationPolicy],
    findings: Findings,
) -> None:
    """Writes that new answers must be copied back, else a rollback loses them."""
    shares = [operations[name].percent for name in group.operations if _is_write(definition, name)]
    most = max(shares, default=PPM_NONE)
    if group.writes is not Writes.DUAL or group.implicit or most <= group_policy.dual:
        return
    message = (
        f"new answers {format_percent(most)} of the keys and the writes of {format_percent(group_policy.dual)} are"
        " copied to old: a rollback loses the rest"
    )
    report = findings.contradiction if DUAL_WRITES_BUILT else findings.warn
    report(("groups", group.name), f"{message}; raise dual_percent first, or write writes: none")


def _is_write(definition: Definition, name: str) -> bool:
    return definition.operations[name].op_class is OperationClass.WRITE


def _progress(policy: OperationPolicy) -> tuple[int, Ppm]:
    return rank(policy.stage), policy.percent


def _at(policy: OperationPolicy) -> str:
    if policy.stage is Stage.LIVE:
        return f"{policy.stage} {format_percent(policy.percent)}"
    return str(policy.stage)
