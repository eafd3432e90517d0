"""What operators move: stages, shares, a whole file, a lost policy. Decides by core's rules, stores through `Acts`.

Who may ask at all was checked by then, except where the role depends on what is stored: forward needs more than back.
Every function raises `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

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
from gateway.core.rules import Delta, check_holds
from gateway.core.snapshot import settled_policies
from gateway.core.stages import rank
from gateway.errors import RestoreRefusedError

Holds = Mapping[str, str]
"""What detectors warn of, by operation; see `core.rules.check_holds`."""
_NO_HOLDS: Final[Holds] = {}


async def move_operation(acts: Acts, order: Order, name: str, body: ChangeBody, holds: Holds = _NO_HOLDS) -> Outcome:
    """Moves one operation."""
    definition = acts.snapshot().definition
    if name not in definition.operations:
        raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {name[:80]!r}; crossfade status lists them")
    return await _change(acts, order, _Target(name, [name], change_operation), body, holds)


async def move_group(acts: Acts, order: Order, name: str, body: ChangeBody, holds: Holds = _NO_HOLDS) -> Outcome:
    """Moves every operation of a group."""
    definition = acts.snapshot().definition
    if name not in definition.groups or definition.groups[name].implicit:
        raise Refused(Code.UNKNOWN_GROUP, f"there is no group {name[:80]!r}; crossfade status lists them")
    target = _Target(name, definition.groups[name].operations, change_group)
    return await _change(acts, order, target, body, holds)


@dataclass(frozen=True, slots=True)
class _Target:
    """What is moved: its name, the operations under it, and how."""

    name: str
    members: Iterable[str]
    rule: Callable[[Definition, Policy, str, Change], Changed]


async def _change(acts: Acts, order: Order, target: _Target, body: ChangeBody, holds: Holds) -> Outcome:
    change = Change(body.stage, body.percent, body.mirror_percent, body.dual_percent, body.skip)
    action = "stage" if body.stage is not None else "share" if body.percent is not None else "mirror"

    async def decide(definition: Definition, policy: Policy) -> Step:
        entry = acts.entry(order, action, target.name, body.reason or "")
        await acts.require_role(order, _role_for(definition, policy, target.members, change), entry)
        changed = target.rule(definition, policy, target.name, change)
        await acts.require_role(order, changed.role, entry)
        passed_over = check_holds(definition, policy, changed.policy, holds, skip=change.skip)
        return Step(changed.policy, _fields(changed, passed_over), entry)

    return await acts.swap(order, decide)


def _fields(changed: Changed, passed_over: str | None) -> dict[str, Delta]:
    """What changes; that a warning was passed over is told with it, in the answer and in the audit."""
    return dict(changed.fields) if passed_over is None else {**changed.fields, "detector_hold": (passed_over, "skip")}


async def apply_wishes(acts: Acts, order: Order, body: ApplyBody, holds: Holds) -> Outcome:
    """Makes a file's policy current, or tells what that would change."""
    assert body.policy is not None
    wished = body.policy

    async def decide(definition: Definition, policy: Policy) -> Step:
        wishes = complete_wishes(definition, policy, wishes_of(definition, wished))
        check_wishes(definition, policy, wishes)
        changed = apply_file(definition, policy, wishes, skip=body.skip)
        passed_over = check_holds(definition, policy, changed.policy, holds, skip=body.skip)
        entry = acts.entry(order, "apply", definition.migration, body.reason or "")
        gathered = replace(changed, fields=flatten(gather(definition, unflatten(changed.fields))))
        return Step(changed.policy, _fields(gathered, passed_over), entry)

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
