"""What the guard says of itself: a word, why where it needs one, and numbers. Never a silent pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.core.detect.guard import GuardState
from gateway.core.detect.latency import Source
from gateway.core.model import OperationClass
from gateway.core.snapshot import Plan
from gateway.core.stages import TABLE
from gateway.guard.hearing import Hearing
from gateway.guard.watched import Mode, Watched, is_final

_LOST_S: Final = 2.0
"""Without a look for so long this worker judges nothing."""
_BASELINES: Final = {
    Source.COPIED: "latency: held against old's answers to mirrored reads",
    Source.REFERENCE: "latency: held against what old did at this hour of another week",
    Source.KEPT: "latency: held against what old did last",
}

_Said = tuple[GuardState, str | None]


@dataclass(frozen=True, slots=True)
class Looked:
    """What is told of.

    Attributes:
        watched: An operation, or all together.
        mode: What there is to judge by now.
        plan: Of the operation, or None.
    """

    watched: Watched
    mode: Mode
    plan: Plan | None


def state_of(looked: Looked, hearing: Hearing, now: float, silent_s: float) -> dict[str, Any]:
    """For JSON.

    Args:
        looked: What is told of.
        hearing: Of the other workers.
        now: Monotonic seconds.
        silent_s: How long ago this worker judged.
    """
    watched = looked.watched
    state, why = _judgement(looked, now)
    if 2 * hearing.blind > hearing.known and state is not GuardState.TRIPPED and looked.mode is not Mode.OUT:
        blind = f"{hearing.blind} of {hearing.known} workers are silent"
        state, why = GuardState.HOLD, blind if why is None else f"{blind}; {why}"
    if silent_s > _LOST_S:
        # What it said last says nothing any more.
        state = GuardState.NOT_ARMED
        why = f"this worker has not judged for {silent_s:.0f} s: see guard_failed in its log"
    elif hearing.is_alone:
        why = f"{why or 'armed'}; this worker alone: Redis does not answer"
    limit_s, source = watched.baseline.limit_s, watched.baseline.source
    return {
        "state": state.value,
        "why": why,
        "evidence_percent": round(100 * watched.guard.evidence, 1),
        "dispersion": round(watched.guard.dispersion, 2),
        "limit_ms": None if limit_s is None else round(1000 * limit_s, 3),
        "baseline": None if source is None else source.value,
    }


def _judgement(looked: Looked, now: float) -> _Said:
    guard = looked.watched.guard
    match looked.mode:
        case Mode.OUT:
            return GuardState.NO_DATA, "new is taken out"
        case Mode.IDLE:
            return GuardState.NO_DATA, "its stage sends nothing to new that clients wait for"
        case Mode.MIRRORED if guard.is_held:
            return GuardState.HOLD, f"mirrored reads: {guard.leaning()}"
        case Mode.MIRRORED:
            return GuardState.NO_DATA, "its stage sends mirrored reads to new alone; they are watched"
        case Mode.JUDGED:
            return _of_served(looked.watched, looked.plan, now)


def _of_served(watched: Watched, plan: Plan | None, now: float) -> _Said:
    is_compared = plan is not None and plan.operation.op_class is OperationClass.READ and TABLE[plan.stage].mirrors
    state, why = watched.guard.state(now, is_compared=is_compared)
    said = [why] if why is not None else []
    if state in (GuardState.ARMED, GuardState.HOLD) and watched.baseline.source in _BASELINES:
        said.append(_BASELINES[watched.baseline.source])
    if plan is not None and is_final(plan):
        said.append("nothing is taken out in complete: it pages instead")
    return state, "; ".join(said) or None
