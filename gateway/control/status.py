"""The state of everything, as operators see it. Unknown is null, never 0; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.control.answers import (
    GroupState,
    KillState,
    Number,
    OperationState,
    SideState,
    Status,
    WorkerState,
)
from gateway.control.comparisons import comparison_counts, read_agreement
from gateway.control.ports import Counters
from gateway.core.compare.tallies import Recent
from gateway.core.counts import Counts, share_of_new
from gateway.core.detect.guard import POOLED
from gateway.core.feed_status import FeedStatus
from gateway.core.histogram import Histogram
from gateway.core.model import Group, GroupPolicy, Latch, LatchKind, OperationClass, Stage, Writes
from gateway.core.outcome import Outcome
from gateway.core.percent import percent_of
from gateway.core.snapshot import Plan, Snapshot, effective_scope, is_bound
from gateway.core.stages import rank

_ANSWERED: Final = (Outcome.OK, Outcome.CLIENT_ERROR, Outcome.FAILURE)
"""Outcomes that say something about a side; a client that left blames nobody."""
_STATES: Final = ("tripped", "hold", "not_armed", "armed", "no_data")
"""What is said where workers differ: the first that one of them says."""

_FRESH_S: Final = 5.0

DetectorWord = Literal["armed", "not_armed", "no_data", "hold", "tripped"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted lately.

    Attributes:
        operations: By operation, side and outcome, as workers report it.
        window_s: Over how many seconds; None when nothing is known.
        totals: What was counted since the workers began.
        suspected: How many differences of an operation wait to be read again.
        agreement: What came of comparisons lately, by operation.
        guards: What each worker's guard says, by operation.
    """

    operations: Mapping[str, Any]
    window_s: float | None
    totals: Counts
    suspected: Callable[[str], int]
    agreement: Mapping[str, Recent]
    guards: Mapping[str, list[Mapping[str, Any]]]

    @classmethod
    def of(cls, counters: Counters, now: float, unix_now: float) -> Measured:
        """From what workers have reported.

        Args:
            counters: Of all workers.
            now: Monotonic seconds.
            unix_now: Unix seconds.
        """
        guards: dict[str, list[Mapping[str, Any]]] = {}
        for blob in counters.live.values():
            for name, guard in blob.get("guards", {}).items():
                guards.setdefault(name, []).append(guard)
        counts, seconds = counters.window(now)
        return cls(
            operations=counts.get("operations", {}),
            window_s=round(seconds, 1) if seconds > 0 else None,
            totals=counters.totals(),
            suspected=counters.suspected,
            agreement=counters.agreement(unix_now),
            guards=guards,
        )


def status_of(
    snapshot: Snapshot, feed: FeedStatus, measured: Measured, break_glass: Iterable[object], workers: list[WorkerState]
) -> Status:
    """Everything at a glance."""
    return Status(
        migration=snapshot.definition.migration,
        epoch=snapshot.epoch,
        lineage=snapshot.policy.lineage,
        state=feed.state.value,
        why=feed.why,
        policy_age_s=None if feed.age_s is None else round(feed.age_s, 3),
        definition=snapshot.definition.digest,
        break_glass=sorted(map(str, break_glass)),
        notes=_notes(measured.guards.get(POOLED, [])),
        kills=[kill_state(snapshot, latch) for _, latch in sorted(snapshot.latches.items())],
        groups={name: group_state(snapshot, name) for name in explicit_groups(snapshot)},
        operations={name: operation_state(snapshot, name, measured) for name in snapshot.plans},
        workers=workers,
    )


def explicit_groups(snapshot: Snapshot) -> list[str]:
    """The groups that the file names."""
    return [group.name for group in snapshot.definition.groups.values() if not group.implicit]


def kill_state(snapshot: Snapshot, latch: Latch) -> KillState:
    """A kill in force."""
    return KillState(
        scope=str(latch.scope),
        effective_scope=str(effective_scope(snapshot.definition, latch.scope)),
        kind=latch.kind.value,
        reason=latch.reason,
        by=latch.by,
        at=latch.at.isoformat(),
        evidence=latch.evidence,
    )


def group_state(snapshot: Snapshot, name: str) -> GroupState:
    """A group: what its operations have in common."""
    group = snapshot.definition.groups[name]
    plans = [snapshot.plans[member] for member in group.operations]
    leading = _leading(group, plans)
    stages = {plan.stage for plan in leading}
    percents = {plan.percent for plan in leading}
    stored = snapshot.policy.groups.get(name, GroupPolicy())
    return GroupState(
        writes=group.writes.value,
        stage=stages.pop().value if len(stages) == 1 else None,
        percent=percent_of(percents.pop()) if len(percents) == 1 else None,
        dual_percent=percent_of(stored.dual),
        pending=None,
        unprotected=_is_unprotected(group, plans),
    )


def _leading(group: Group, plans: list[Plan]) -> list[Plan]:
    """The operations that share the group's stage and percent; all of them where none must."""
    return [plan for plan in plans if is_bound(group, plan.operation)] or plans


def _is_unprotected(group: Group, plans: list[Plan]) -> bool:
    # Until dual writes are built, nothing copies what new accepts: a kill would lose it.
    return group.writes is Writes.DUAL and any(
        plan.operation.op_class is OperationClass.WRITE and rank(plan.stage) >= rank(Stage.LIVE) for plan in plans
    )


def operation_state(snapshot: Snapshot, name: str, measured: Measured) -> OperationState:
    """An operation."""
    plan = snapshot.plans[name]
    counts = measured.operations.get(name, {})
    is_known = measured.window_s is not None
    guards = measured.guards.get(name, [])
    detector, why, evidence = _detector(plan, guards)
    told = guards[0] if guards else {}
    return OperationState(
        op_class=plan.operation.op_class.value,
        group=plan.operation.group,
        stage=plan.stage.value,
        percent=percent_of(plan.percent),
        effective_percent=percent_of(plan.effective),
        actual_percent=_actual_percent(counts),
        mirror_percent=percent_of(snapshot.policy.operations[name].mirror) if name in snapshot.policy.operations else 0,
        killed=plan.latch is not None,
        detector=detector,
        why=why,
        evidence_percent=evidence,
        comparisons=comparison_counts(measured.totals, name, measured.suspected(name)),
        consistency=read_agreement(measured.agreement.get(name, Recent())),
        dispersion=told.get("dispersion"),
        limit_ms=told.get("limit_ms"),
        baseline=told.get("baseline"),
        window_s=measured.window_s,
        sides={side: _side_state(counts.get(side, {})) if is_known else SideState() for side in ("old", "new")},
    )


def _detector(plan: Plan, guards: list[Mapping[str, Any]]) -> tuple[DetectorWord, str | None, Number | None]:
    """What the detectors of all workers say of an operation, why, and how sure the surest is."""
    if plan.latch is not None and plan.latch.kind is LatchKind.TRIP:
        return "tripped", plan.latch.reason, 100.0
    if not guards:
        return "no_data", "no worker has said anything yet", None
    first = min(guards, key=lambda guard: _STATES.index(guard["state"]))
    return first["state"], first["why"], max(guard["evidence_percent"] for guard in guards)


def _notes(guards: list[Mapping[str, Any]]) -> list[str]:
    """What the detectors of all operations together say, where that needs a word."""
    if not guards:
        return []
    first = min(guards, key=lambda guard: _STATES.index(guard["state"]))
    if first["state"] in ("hold", "tripped", "not_armed"):
        return [f"detectors of all operations together: {first['state']}: {first['why']}"]
    return []


def holds_of(live: Mapping[str, Mapping[str, Any]], unix_now: float) -> dict[str, str]:
    """What detectors warn of, by operation; `(all)` for all together. One worker that does is enough.

    Args:
        live: The latest report of each worker.
        unix_now: Unix seconds; what a worker said long ago is no warning.
    """
    return {
        name: str(guard["why"])
        for blob in live.values()
        if unix_now - blob.get("at", 0) < _FRESH_S
        for name, guard in blob.get("guards", {}).items()
        if guard["state"] == "hold"
    }


def _actual_percent(sides: Mapping[str, Any]) -> Number | None:
    share = share_of_new(sides)
    return None if share is None else round(100 * share, 2)


def _side_state(cell: Mapping[str, Any]) -> SideState:
    outcomes = cell.get("outcomes", {})
    histogram = Histogram.from_sparse(cell.get("histogram", {}))
    return SideState(
        n=sum(outcomes.get(outcome, 0) for outcome in _ANSWERED),
        errors=outcomes.get(Outcome.FAILURE, 0),
        p50_ms=_milliseconds(histogram.quantile(0.5)),
        p95_ms=_milliseconds(histogram.quantile(0.95)),
        p99_ms=_milliseconds(histogram.quantile(0.99)),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def worker_states(live: Mapping[str, Mapping[str, Any]], unix_now: float) -> list[WorkerState]:
    """What each gateway worker last said about itself.

    Args:
        live: The latest report of each.
        unix_now: Unix seconds; workers stamp their reports with theirs.
    """
    return [_worker_state(name, blob, unix_now) for name, blob in sorted(live.items())]


def _worker_state(name: str, blob: Mapping[str, Any], unix_now: float) -> WorkerState:
    at, age_s = blob.get("at"), blob.get("age_s")
    silent_s = None if at is None else max(0.0, unix_now - at)
    return WorkerState(
        id=name,
        epoch=blob.get("epoch"),
        # What it has not said since it cannot have read either, as far as anybody here knows.
        age_s=None if age_s is None else round(age_s + (silent_s or 0.0), 3),
        state=blob.get("state"),
        definition=blob.get("definition"),
        silent_s=None if silent_s is None else round(silent_s, 3),
    )
