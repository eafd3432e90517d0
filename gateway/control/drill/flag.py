"""The flag that is flipped: the share that is in force, or where there is none, a pin of the drill's own keys.

Nothing in here ever gives more of clients' keys to new than it had when the drill began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gateway.control.acts import Acts, Order, Step
from gateway.core.drill import PREFIX
from gateway.core.model import PPM_NONE, Definition, GroupPolicy, Operation, Policy, Ppm, Side, Stage, Writes
from gateway.core.percent import percent_of
from gateway.core.snapshot import covers, settled_policies


class FlagMovedError(Exception):
    """Somebody else has moved what is flipped, or killed it."""


def shares_of(definition: Definition, policy: Policy, operation: Operation) -> dict[str, int]:
    """The shares in ppm that move together with an operation's, by operation: of those that are live."""
    group = definition.groups[operation.group]
    alone = group.implicit or group.writes is Writes.SHARED
    names = [operation.name] if alone else group.operations
    settled = settled_policies(definition, policy)
    return {name: settled[name].percent for name in names if settled[name].stage is Stage.LIVE}


async def flip_shares(acts: Acts, order: Order, operation: Operation, shares: Mapping[str, int], to: Side) -> int:
    """Gives operations their shares, or none; returns the epoch.

    Raises:
        Refused: It cannot be done.
        FlagMovedError: The shares are not what the last flip has left.
    """

    async def decide(definition: Definition, policy: Policy) -> Step:
        _refuse_if_killed(definition, policy, operation)
        settled = settled_policies(definition, policy)
        before = {name: PPM_NONE if to is Side.NEW else Ppm(share) for name, share in shares.items()}
        for name, share in before.items():
            if settled[name].percent != share:
                raise FlagMovedError(f"somebody has set {name} to {percent_of(settled[name].percent)} % meanwhile")
        return _with_shares(acts, order, policy, {name: shares[name] if to is Side.NEW else 0 for name in shares}, to)

    return (await acts.swap(order, decide)).snapshot.epoch


async def put_shares_back(acts: Acts, order: Order, shares: Mapping[str, int]) -> None:
    """Gives operations their shares where the last flip took them away; what somebody else has set stays.

    Raises:
        Refused: It cannot be done.
    """

    async def decide(definition: Definition, policy: Policy) -> Step:
        settled = settled_policies(definition, policy)
        taken = {
            name: share
            for name, share in shares.items()
            if name in settled and settled[name].stage is Stage.LIVE and settled[name].percent == PPM_NONE and share
        }
        return _with_shares(acts, order, policy, taken, Side.NEW)

    await acts.swap(order, decide)


def _with_shares(acts: Acts, order: Order, policy: Policy, shares: Mapping[str, int], to: Side) -> Step:
    operations = {name: replace(policy.operations[name], percent=Ppm(share)) for name, share in shares.items()}
    fields: dict[str, Any] = {
        f"{name}.percent": (percent_of(policy.operations[name].percent), percent_of(Ppm(share)))
        for name, share in shares.items()
        if policy.operations[name].percent != share
    }
    entry = acts.entry(order, "flip", ", ".join(shares), f"drill: to {to}")
    return Step(replace(policy, operations={**policy.operations, **operations}), fields, entry)


async def pin(acts: Acts, order: Order, operation: Operation, keys: Iterable[str], to: Side) -> int:
    """Pins the drill's own keys to new, or lets go of them; returns the epoch.

    Raises:
        Refused: It cannot be done.
        FlagMovedError: The operation is killed.
    """
    own = frozenset(keys)
    assert all(key.startswith(PREFIX) for key in own)

    async def decide(definition: Definition, policy: Policy) -> Step:
        _refuse_if_killed(definition, policy, operation)
        return _pinned(acts, order, policy, operation.group, own if to is Side.NEW else frozenset(), own)

    return (await acts.swap(order, decide)).snapshot.epoch


async def unpin(acts: Acts, order: Order, group: str, drill: str) -> None:
    """Lets go of every key of a drill.

    Raises:
        Refused: It cannot be done.
    """

    async def decide(_: Definition, policy: Policy) -> Step:
        pinned = policy.groups.get(group, GroupPolicy()).allow
        own = frozenset(key for key in pinned if key.startswith(PREFIX + drill))
        return _pinned(acts, order, policy, group, frozenset(), own)

    await acts.swap(order, decide)


def _pinned(
    acts: Acts, order: Order, policy: Policy, group: str, added: frozenset[str], removed: frozenset[str]
) -> Step:
    before = policy.groups.get(group, GroupPolicy())
    after = replace(before, allow=(before.allow - removed) | added)
    fields: dict[str, Any] = {}
    if after.allow != before.allow:
        fields["allow"] = (f"{len(before.allow)} keys", f"{len(after.allow)} keys")
    to = Side.NEW if added else Side.OLD
    entry = acts.entry(order, "flip", group, f"drill: its own keys to {to}")
    return Step(replace(policy, groups={**policy.groups, group: after}), fields, entry)


def _refuse_if_killed(definition: Definition, policy: Policy, operation: Operation) -> None:
    for scope, latch in policy.latches.items():
        if covers(definition, scope, operation):
            raise FlagMovedError(f"{scope} was killed by {latch.by} meanwhile: {latch.reason}")
