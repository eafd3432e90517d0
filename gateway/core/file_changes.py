"""What a migration file does to a policy: at the first boot, for what is new, and when it is applied. Pure."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.changes import Changed
from gateway.core.file_policy import FilePolicy
from gateway.core.model import (
    Definition,
    Epoch,
    GroupPolicy,
    Policy,
)
from gateway.core.percent import percent_of
from gateway.core.roles import Role
from gateway.core.rules import Delta, check_together, check_transition, differences, standings
from gateway.core.snapshot import is_bound, settled_policies


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
        fields = differences(settled[name], wishes.operations[name])
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
    before = standings(definition, policy)
    moved = {name: wishes.operations[name] for name in definition.operations}
    for name, wished in moved.items():
        if wished.stage is not before[name].at.stage:
            check_transition(before[name], wished.stage, skip=skip)
    fields = {
        f"{target}: {field}": delta
        for target, deltas in difference(definition, policy, wishes).items()
        for field, delta in deltas.items()
    }
    if not fields:
        return Changed(policy, {}, Role.APPROVER)
    operations, _ = check_together(before, moved)
    groups = {**policy.groups, **wishes.groups}
    return Changed(
        replace(policy, operations={**policy.operations, **operations}, groups=groups), fields, Role.APPROVER
    )
