"""Kills and their end: what a scope is, and what re-arming it does. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from gateway.core.drill import is_rehearsed
from gateway.core.model import (
    PPM_NONE,
    Definition,
    Latch,
    LatchKind,
    Policy,
    Ppm,
    Scope,
    ScopeKind,
    Stage,
)
from gateway.core.percent import percent_of
from gateway.core.rules import RuleViolation
from gateway.core.snapshot import covers, settled_policies

TRIP_COOL_DOWN: Final = timedelta(seconds=600)
"""How long a tripped scope stays killed at least. Kills by hand and trips of a drill may be re-armed at once."""


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
    return latch.kind is LatchKind.TRIP and not is_rehearsed(latch) and now < latch.at + TRIP_COOL_DOWN


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
