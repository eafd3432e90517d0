"""What operators move: stages, shares, a whole file, a lost policy. Decides by core's rules, stores through `Acts`.

Who may ask at all was checked by then, except where the role depends on what is stored: forward needs more than back.
Every function raises `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.control.acts import Acts, Order, Outcome, Step
from gateway.control.bodies import ApplyBody, ChangeBody
from gateway.control.gather import flatten, gather, unflatten
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Code, Refused, unavailable
from gateway.control.wishes import check_wishes, complete_wishes, wishes_of
from gateway.core.changes import Change, Changed, change_group, change_operation
from gateway.core.file_changes import apply_file
from gateway.core.model import Definition, Policy
from gateway.core.roles import Role
from gateway.core.snapshot import settled_policies
from gateway.core.stages import rank
from gateway.errors import RestoreRefusedError


async def move_operation(acts: Acts, order: Order, name: str, body: ChangeBody) -> Outcome:
    """Moves one operation."""
    definition = acts.snapshot().definition
    if name not in definition.operations:
        raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {name[:80]!r}; crossfade status lists them")
    return await _change(acts, order, name, [name], body, change_operation)


async def move_group(acts: Acts, order: Order, name: str, body: ChangeBody) -> Outcome:
    """Moves every operation of a group."""
    definition = acts.snapshot().definition
    if name not in definition.groups or definition.groups[name].implicit:
        raise Refused(Code.UNKNOWN_GROUP, f"there is no group {name[:80]!r}; crossfade status lists them")
    return await _change(acts, order, name, definition.groups[name].operations, body, change_group)


async def _change(
    acts: Acts,
    order: Order,
    target: str,
    members: Iterable[str],
    body: ChangeBody,
    rule: Callable[[Definition, Policy, str, Change], Changed],
) -> Outcome:
    change = Change(body.stage, body.percent, body.mirror_percent, body.dual_percent, body.skip)
    action = "stage" if body.stage is not None else "share" if body.percent is not None else "mirror"

    async def decide(definition: Definition, policy: Policy) -> Step:
        entry = acts.entry(order, action, target, body.reason or "")
        await acts.require_role(order, _role_for(definition, policy, members, change), entry)
        changed = rule(definition, policy, target, change)
        await acts.require_role(order, changed.role, entry)
        return Step(changed.policy, dict(changed.fields), entry)

    return await acts.swap(order, decide)


async def apply_wishes(acts: Acts, order: Order, body: ApplyBody) -> Outcome:
    """Makes a file's policy current, or tells what that would change."""
    assert body.policy is not None
    wished = body.policy

    async def decide(definition: Definition, policy: Policy) -> Step:
        wishes = complete_wishes(definition, policy, wishes_of(definition, wished))
        check_wishes(definition, policy, wishes)
        changed = apply_file(definition, policy, wishes, skip=body.skip)
        entry = acts.entry(order, "apply", definition.migration, body.reason or "")
        return Step(changed.policy, flatten(gather(definition, unflatten(changed.fields))), entry)

    return await acts.swap(order, decide, dry_run=body.dry_run)


async def restore(acts: Acts, order: Order, reason: str) -> Outcome:
    """Puts back what this process has in force."""
    snapshot = acts.snapshot()
    entry = acts.entry(order, "restore", snapshot.definition.migration, reason)
    try:
        policy = await acts.store.restore(entry)
    except RestoreRefusedError as exc:
        raise Refused(Code.RULE_VIOLATION, str(exc), rule="nothing_to_restore", legal=None) from exc
    except StoreUnavailableError as exc:
        raise unavailable(str(exc)) from exc
    return Outcome(acts.compile(snapshot, policy), {"restored": (False, True)})


def _role_for(definition: Definition, policy: Policy, members: Iterable[str], change: Change) -> Role:
    """The role that a change needs, told before its rules are: who may not ask learns nothing of them."""
    if change.skip:
        return Role.APPROVER
    if change.stage is None:
        return Role.OPERATOR
    settled = settled_policies(definition, policy)
    forward = any(rank(change.stage) > rank(settled[name].stage) for name in members)
    return Role.APPROVER if forward else Role.OPERATOR
