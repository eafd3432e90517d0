"""A trip takes new out here at once, with a record; where there is no way back, it is told instead."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.core.audit import AuditEntry
from gateway.core.detect.record import Cause, Seen
from gateway.core.drill import DrillOrder, Fault
from gateway.core.model import (
    SCOPE_ALL,
    Latch,
    LatchKind,
    OperationPolicy,
    Ppm,
    Scope,
    ScopeKind,
    Stage,
    Writes,
)
from gateway.core.snapshot import Snapshot, compile_snapshot
from gateway.guard.tripping import DISARMED, Sources, Tripper
from tests.unit.core.migrations import at, policy, workspace

MEMBERS = ("git.status", "git.log", "git.push", "git.commit")
STATUS = Scope(ScopeKind.OPERATION, "git.status")


@dataclass
class Kept:
    """What a tripper wanted done."""

    killed: list[Latch] = field(default_factory=list)
    parts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    latches: list[tuple[Latch, dict[str, Any]]] = field(default_factory=list)
    told: list[tuple[AuditEntry, dict[str, Any]]] = field(default_factory=list)

    def kill_locally(self, latch: Latch) -> None:
        self.killed.append(latch)

    def keep_record(self, latch: Latch, record: str) -> None:
        self.latches.append((latch, json.loads(record)))

    def add_part(self, trip: str, part: str) -> None:
        self.parts.append((trip, json.loads(part)))

    def tell(self, entry: AuditEntry, record: str) -> None:
        self.told.append((entry, json.loads(record)))


class Nothing:
    def failures(self, _: str | None) -> list[Seen]:
        return []

    def late(self, _: str | None) -> list[Seen]:
        return []


@dataclass
class Hanging:
    began: float = 1.0
    is_late: bool = False
    operation: str | None = "git.status"
    request_id: bytes = b"hanging"


def snapshot(stage: Stage) -> Snapshot:
    shares = {name: at(stage, 25 if stage is Stage.LIVE else 0) for name in MEMBERS}
    return compile_snapshot(workspace(Writes.NONE), policy(shares))


def tripper(kept: Kept, found: Snapshot | None, drill: DrillOrder | None = None) -> Tripper:
    return Tripper("gateway-0", kept, Sources(lambda: found, lambda: drill, Nothing(), [Hanging()], lambda: 9.0, str))


def test_it_latches_and_names_its_record() -> None:
    kept = Kept()
    tripper(kept, snapshot(Stage.LIVE)).trip(Cause(STATUS, "silence", "silence: " + "x" * 600))
    ((latch, record),) = kept.latches
    assert (latch.scope, latch.kind, latch.by, latch.evidence) == (STATUS, LatchKind.TRIP, "detector:gateway-0", "")
    assert len(latch.reason) == 500
    assert record["slowest"] == [{"request_id": "hanging", "ms": 8000.0, "ended": False}]
    assert record["at"] == latch.at.isoformat()
    assert kept.told == []


def test_in_complete_it_is_told_and_nothing_is_taken_out() -> None:
    kept = Kept()
    tripper(kept, snapshot(Stage.COMPLETE)).trip(Cause(STATUS, "errors", "errors: all"))
    ((entry, record),) = kept.told
    assert (entry.action, entry.target, record["disarmed"]) == (DISARMED, "operation:git.status", True)
    assert kept.latches == []


@pytest.mark.parametrize("scope", [STATUS, SCOPE_ALL])
def test_a_drill_is_named_in_the_trip_that_it_provoked(scope: Scope) -> None:
    kept = Kept()
    drill = DrillOrder("d1", Fault.ERRORS, "git.status", Ppm(0), 0.0, 1.0)
    tripper(kept, snapshot(Stage.LIVE), drill).trip(Cause(scope, "errors", "errors: all"))
    ((latch, record),) = kept.latches
    assert latch.by == record["by"] == "drill:d1:detector:gateway-0"


def test_a_trip_of_another_operation_is_not_a_drills() -> None:
    """Not even where a kill of one takes the whole group: the fault meets requests of the drilled one alone."""
    kept = Kept()
    drill = DrillOrder("d1", Fault.ERRORS, "git.log", Ppm(0), 0.0, 1.0)
    tripper(kept, snapshot(Stage.LIVE), drill).trip(Cause(STATUS, "errors", "errors: all"))
    ((latch, _),) = kept.latches
    assert latch.by == "detector:gateway-0"


@pytest.mark.parametrize(
    ("fault", "signal", "is_its"),
    [
        (Fault.MISMATCH, "consistency", True),
        # Clients see nothing of it: what is slow then is slow.
        (Fault.MISMATCH, "latency", False),
        (Fault.MISMATCH, "errors", False),
        (Fault.ERRORS, "latency", False),
        (Fault.ERRORS, "consistency", False),
        (Fault.DOWN, "absence", True),
        (Fault.DOWN, "consistency", False),
        (Fault.SLOW, "latency", True),
        (Fault.HANG, "silence", True),
        (Fault.HANG, "errors", True),
        (Fault.HANG, "consistency", False),
        (Fault.FLIPS, "errors", False),
    ],
)
def test_what_the_fault_of_a_drill_cannot_cause_is_real(fault: Fault, signal: str, *, is_its: bool) -> None:
    kept = Kept()
    drill = DrillOrder("d1", fault, "git.status", Ppm(0), 0.0, 1.0)
    tripper(kept, snapshot(Stage.LIVE), drill).trip(Cause(STATUS, signal, f"{signal}: all"))
    ((latch, _),) = kept.latches
    assert latch.by == ("drill:d1:detector:gateway-0" if is_its else "detector:gateway-0")


def test_a_record_that_cannot_be_made_does_not_stand_in_the_way() -> None:
    kept = Kept()

    class Broken(Nothing):
        def failures(self, _: str | None) -> list[Seen]:
            raise RuntimeError("broken")

    sources = Sources(lambda: snapshot(Stage.LIVE), lambda: None, Broken(), [], lambda: 9.0, str)
    Tripper("gateway-0", kept, sources).trip(Cause(STATUS, "errors", "errors: all"))
    assert [latch.scope for latch in kept.killed] == [STATUS]
    assert kept.latches == []


def test_what_has_a_way_back_takes_it_though_another_has_none() -> None:
    kept = Kept()
    stages = {name: at(Stage.COMPLETE) for name in MEMBERS} | {"ping": at(Stage.LIVE, 100)}
    mixed = compile_snapshot(workspace(Writes.NONE), policy(stages))
    tripper(kept, mixed).trip_all(Cause(SCOPE_ALL, "absence", "absence: ten"))
    assert [str(latch.scope) for latch in kept.killed] == ["operation:ping"]
    assert [entry.target for entry, _ in kept.told] == ["all"]


def test_what_has_nothing_on_new_is_not_taken_out() -> None:
    kept = Kept()
    tripper(kept, snapshot(Stage.OFF)).trip_all(Cause(SCOPE_ALL, "absence", "absence: ten"))
    tripper(kept, None).trip_all(Cause(SCOPE_ALL, "absence", "absence: ten"))
    assert kept.latches == []
    tripper(kept, snapshot(Stage.LIVE)).trip_all(Cause(SCOPE_ALL, "absence", "absence: ten"))
    assert [latch.scope for latch, _ in kept.latches] == [SCOPE_ALL]


def tripped(by: str, at: datetime) -> Snapshot:
    latch = Latch(STATUS, LatchKind.TRIP, "errors: all", by, at, "t9")
    return compile_snapshot(
        workspace(Writes.NONE), policy({name: at_live() for name in MEMBERS}), external={STATUS: latch}
    )


def at_live() -> OperationPolicy:
    return at(Stage.LIVE, 25)


@pytest.mark.parametrize(
    ("by", "age_s", "wanted"),
    [
        ("detector:gateway-1", 0, 1),
        ("drill:d1:detector:gateway-1", 0, 1),
        ("detector:gateway-0", 0, 0),
        ("detector:gateway-1", 3600, 0),
    ],
)
def test_what_this_worker_saw_is_added_once_to_the_trip_of_another(by: str, age_s: int, wanted: int) -> None:
    kept, found = Kept(), tripped(by, datetime.now(UTC) - timedelta(seconds=age_s))

    class Some(Nothing):
        def failures(self, _: str | None) -> list[Seen]:
            return [Seen(8.0, "status 500", 0.5, "r1")]

    made = Tripper("gateway-0", kept, Sources(lambda: found, lambda: None, Some(), [], lambda: 9.0, str))
    made.policy_changed()
    made.policy_changed()
    assert [(trip, part["failed"]) for trip, part in kept.parts] == [("t9", ["r1"])] * wanted
