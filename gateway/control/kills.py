"""Kills and their re-arming. Every function raises `Refused`."""

from __future__ import annotations

from dataclasses import replace

from gateway.control.acts import Acts, Order, Outcome, Step
from gateway.control.auth import WAYS_TO_KILL
from gateway.control.bodies import KillBody, RearmBody
from gateway.control.gather import flatten, gather
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Code, Refused, unavailable
from gateway.core.kills import kill_is_lossless, rearm, scope_exists
from gateway.core.model import Definition, Epoch, Latch, LatchKind, Policy, Scope
from gateway.core.percent import percent_of
from gateway.core.rules import Delta
from gateway.core.snapshot import Snapshot, covers, settled_policies


async def kill_scope(acts: Acts, order: Order, body: KillBody) -> tuple[Outcome, Latch]:
    """Latches a scope. Needs no epoch and repeats without effect. Returns the latch in force."""
    snapshot = acts.snapshot()
    scope = body.scope
    if not scope_exists(snapshot.definition, scope):
        raise Refused(Code.UNKNOWN_SCOPE, f"there is nothing named {str(scope)[:80]!r}; crossfade status lists all")
    if not body.accept_data_loss and not kill_is_lossless(snapshot.definition, snapshot.policy, scope):
        raise Refused(
            Code.RULE_VIOLATION,
            f"{scope} holds an operation in stage complete: old lacks what new has written since",
            rule="accept_data_loss",
            legal=f"crossfade kill {scope} --accept-data-loss --reason …",
        )
    latch = Latch(scope, LatchKind.KILL, body.reason, order.caller.name, acts.now())
    entry = acts.entry(order, "kill", str(scope), body.reason, {"killed": (False, True)})
    try:
        epoch = await acts.store.kill(latch, entry)
    except StoreUnavailableError as exc:
        # Never lost: this process keeps it and stores it as soon as it can.
        acts.feed.kill_locally(latch)
        raise unavailable(
            f"the kill of {scope} is not in force everywhere yet: {exc}; it is kept and stored as soon as "
            f"possible; {WAYS_TO_KILL}"
        ) from exc
    if epoch is None:
        raise unavailable(f"no policy is known that could take the kill of {scope}; {WAYS_TO_KILL}")
    await acts.until_seen(epoch)
    return await _after_kill(acts, snapshot, latch, epoch)


async def _after_kill(acts: Acts, snapshot: Snapshot, latch: Latch, epoch: Epoch) -> tuple[Outcome, Latch]:
    """What is in force now: the latch that was there before, if there was one."""
    try:
        stored = await acts.store.read()
    except StoreUnavailableError:
        stored = None
    policy = stored or replace(snapshot.policy, epoch=epoch, latches={latch.scope: latch, **snapshot.policy.latches})
    in_force = policy.latches.get(latch.scope, latch)
    is_new = in_force.at == latch.at and in_force.by == latch.by
    fields: dict[str, Delta] = {"killed": (False, True)} if is_new else {}
    return Outcome(acts.compile(snapshot, policy), fields), in_force


async def rearm_scope(acts: Acts, order: Order, scope: Scope, body: RearmBody) -> Outcome:
    """Removes exactly one latch."""
    definition = acts.snapshot().definition
    if not scope_exists(definition, scope) and scope not in acts.snapshot().latches:
        raise Refused(Code.UNKNOWN_SCOPE, f"there is nothing named {str(scope)[:80]!r}; crossfade status lists all")
    if scope in acts.feed.held_break_glass:
        raise Refused(
            Code.RULE_VIOLATION,
            f"the break-glass key or file of {scope} is still there and would kill it again",
            rule="break_glass_present",
            legal=f"redis-cli DEL cf:{definition.migration}:kill:{scope}, or remove <data-dir>/KILL",
        )

    async def decide(definition: Definition, policy: Policy) -> Step:
        after, _ = rearm(definition, policy, scope, percent=body.percent, now=acts.now())
        fields: dict[str, Delta] = {"killed": (True, False), **_moved_percents(definition, policy, after)}
        return Step(after, fields, acts.entry(order, "rearm", str(scope), body.reason))

    return await acts.swap(order, decide)


def _moved_percents(definition: Definition, before: Policy, after: Policy) -> dict[str, Delta]:
    old, new = settled_policies(definition, before), settled_policies(definition, after)
    moved = {
        f"operation {name}": {"percent": (percent_of(old[name].percent), percent_of(new[name].percent))}
        for name in definition.operations
        if old[name].percent != new[name].percent
    }
    return flatten(gather(definition, moved))


def still_killed_by(snapshot: Snapshot, scope: Scope) -> list[str]:
    """Other kills in force, as far as they cover something that `scope` covers."""
    return sorted(
        {
            str(plan.latch.scope)
            for plan in snapshot.plans.values()
            if plan.latch is not None and covers(snapshot.definition, scope, plan.operation)
        }
    )
