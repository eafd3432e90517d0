"""The end of a drill: the fault ends, what tripped is re-armed, what was moved is put back.

New is asked before it is given anything: a real outage may have come in the middle of a rehearsed one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.control.acts import Acts, Order
from gateway.control.bodies import ChangeBody, RearmBody
from gateway.control.drill.flag import put_shares_back, unpin
from gateway.control.drill.ports import Kit
from gateway.control.kills import rearm_scope
from gateway.control.moves import move_group, move_operation
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Refused
from gateway.core.drill import NoDrillRequestError, as_real, is_rehearsed, key_part, request_for
from gateway.core.model import PPM_NONE, Definition, Latch, LatchKind, Policy, Ppm, Scope, Stage, Writes
from gateway.core.snapshot import covers, settled_policies

_ASKED: Final = 5
_FAILED: Final = 2
"""So many of them that fail are an outage: one alone may be the error in a hundred that is always there."""
_SETTLE_S: Final = 2.5
_ANSWER_S: Final = 5.0


@dataclass(slots=True)
class Before:
    """What a drill puts back, for JSON.

    Attributes:
        stage: Of the operation, where the drill moved it; None: it did not.
        mirror: Its mirror share in ppm, likewise.
        shares: Shares in ppm that it flips, by operation; None: it flips none.
        pins: Whether it pins keys of its own.
    """

    stage: str | None = None
    mirror: int | None = None
    shares: dict[str, int] | None = None
    pins: bool = False


async def restore(acts: Acts, order: Order, kit: Kit, report: Mapping[str, Any]) -> list[str]:
    """Ends the fault and puts back what a drill has moved; returns what could not be put back."""
    problems: list[str] = []

    async def attempt(what: str, step: Callable[[], Any]) -> None:
        try:
            await step()
        except Refused as refused:
            problems.append(f"{what}: {refused.message}")
        except StoreUnavailableError as exc:
            problems.append(f"{what}: {exc}")

    drill, name = str(report["id"]), str(report["operation"])
    before = Before(**report["before"])
    why = f"end of drill {drill}"
    await attempt("the fault ends by itself", lambda: kit.drills.end(drill))
    if report["phase"] == "fault":
        # Nothing has tripped yet, and still may: what comes after the end of the fault is found below, too.
        await asyncio.sleep(_SETTLE_S)

    async def rearm() -> None:
        policy = await acts.store.read()
        latches = [
            latch for latch in (policy.latches.values() if policy is not None else ()) if is_rehearsed(latch, drill)
        ]
        trouble = await _trouble(acts, kit, name, drill) if latches else None
        for latch in latches:
            if trouble is not None:
                await _keep(acts, order, kit, latch, trouble)
                problems.append(f"the kill of {latch.scope} stands, as a real trip: {trouble}")
                continue
            percent = _most(acts.snapshot().definition, policy, latch.scope)
            await rearm_scope(acts, order, latch.scope, RearmBody.model_construct(reason=why, percent=percent))

    await attempt("the kill stands", rearm)
    if before.mirror is not None:
        mirror = ChangeBody.model_construct(mirror_percent=Ppm(before.mirror), reason=why)
        await attempt("reads stay mirrored", lambda: move_operation(acts, order, name, mirror))
    if before.shares:
        shares = before.shares
        await attempt(f"{', '.join(shares)} stay at 0 %", lambda: put_shares_back(acts, order, shares))
    if before.pins:
        operation = acts.snapshot().definition.operations.get(name)
        group = operation.group if operation is not None else name
        await attempt("its own keys stay pinned", lambda: unpin(acts, order, group, drill))
    if before.stage is not None:
        stage = ChangeBody.model_construct(stage=Stage(before.stage), reason=why)
        await attempt(f"{name} stays live at 0 %", lambda: move(acts, order, name, stage))
    return problems


async def move(acts: Acts, order: Order, name: str, change: ChangeBody) -> None:
    """Moves an operation, with its group where it cannot move alone."""
    definition = acts.snapshot().definition
    operation = definition.operations.get(name)
    group = definition.groups[operation.group] if operation is not None else None
    if group is None or group.implicit or group.writes is Writes.SHARED:
        await move_operation(acts, order, name, change)
    else:
        await move_group(acts, order, group.name, change)


async def _trouble(acts: Acts, kit: Kit, name: str, drill: str) -> str | None:
    """What is wrong with new without the fault; None: nothing, or nobody can ask for this operation."""
    definition = acts.snapshot().definition
    operation = definition.operations.get(name)
    if operation is None:
        return None
    try:
        requests = [request_for(definition, operation, key_part(drill, number)) for number in range(_ASKED)]
    except NoDrillRequestError:
        return None
    within_s = min(operation.deadlines.total_s or _ANSWER_S, _ANSWER_S)
    found = await asyncio.gather(*(kit.new.trouble(operation, request, within_s) for request in requests))
    troubles = [trouble for trouble in found if trouble is not None]
    if len(troubles) < _FAILED:
        return None
    most, _ = Counter(troubles).most_common(1)[0]
    return f"new is unwell without the fault of drill {drill}: {len(troubles)} of {_ASKED} requests failed: {most}"


async def _keep(acts: Acts, order: Order, kit: Kit, latch: Latch, trouble: str) -> None:
    """What a drill has provoked is a real trip from now on: nobody but a human re-arms it, and not at once."""
    kept = as_real(latch, trouble)
    entry = replace(acts.entry(order, LatchKind.TRIP, str(kept.scope), kept.reason), by=kept.by, evidence=kept.evidence)
    if await kit.drills.keep_trip(latch, kept, entry):
        acts.feed.refresh_soon()


def _most(definition: Definition, policy: Policy | None, scope: Scope) -> Ppm:
    """The largest share under a latch: re-armed with it, nothing is lowered."""
    if policy is None:
        return PPM_NONE
    settled = settled_policies(definition, policy)
    under = [name for name, operation in definition.operations.items() if covers(definition, scope, operation)]
    return max((settled[name].percent for name in under if settled[name].stage is Stage.LIVE), default=PPM_NONE)
