"""The record of a trip says what on-call needs, and nothing that a request or an answer said."""

from __future__ import annotations

from gateway.core.detect.cusum import Excursion
from gateway.core.detect.record import Baseline, Cause, Seen, Trouble, part_of, record_of, with_parts
from gateway.core.model import SCOPE_ALL, Scope, ScopeKind, Stage, Writes
from gateway.core.snapshot import compile_snapshot
from tests.unit.core.migrations import at, policy, workspace

SNAPSHOT = compile_snapshot(
    workspace(Writes.NONE),
    policy({name: at(Stage.LIVE, 25) for name in ("git.status", "git.log", "git.push", "git.commit")}),
)
STATUS = Scope(ScopeKind.OPERATION, "git.status")
ERRORS = Cause(
    STATUS,
    "errors",
    "errors: 12 of 40 requests failed",
    since=100.0,
    excursion=Excursion(0.2, 40, 12, 100.0, 1.0),
    threshold=0.05,
    baseline=Baseline(80, 0, 12.5),
    evidence={"errors": 1.0, "latency": 0.125, "consistency": 0.0},
    workers=2,
)


def failed(at: float, kind: str = "status 500", seconds: float = 0.1, name: str = "r") -> Seen:
    return Seen(at, kind, seconds, name)


def test_it_says_the_numbers_the_kinds_and_the_policy_before() -> None:
    failures = [failed(90.0, name="before"), *(failed(101.0, name=f"r{n}") for n in range(9)), failed(102.0, "timeout")]
    record = record_of("t1", ERRORS, Trouble(failures), SNAPSHOT, 104.5)
    assert record["excursion"] == {
        "n": 40,
        "bad": 12,
        "percent": 30.0,
        "bet_percent": 20.0,
        "seconds": 4.5,
        "threshold_percent": 5.0,
        "limit_ms": None,
        "p95_ms": None,
    }
    assert record["effective_scope"] == "group:workspace"
    assert record["error_kinds"] == [{"kind": "status 500", "n": 9}, {"kind": "timeout", "n": 1}]
    assert all(seen["request_id"] != "before" for seen in record["slowest"])
    assert len(record["failed"]) == len(record["slowest"]) == 5
    assert record["detectors"]["latency"] == 12.5
    assert record["baseline"]["shared_fault"] is False
    before = record["policy_before"]
    assert before["operations"]["git.log"] == {"stage": "live", "percent": 25, "effective_percent": 25}
    assert "ping" not in before["operations"]


def test_the_slowest_come_first_and_those_that_wait_are_told_apart() -> None:
    late = [Seen(101.0, "", 0.5, "a"), Seen(101.0, "", 2.0, "b"), Seen(99.0, "", 9.0, "earlier")]
    waiting = Seen(104.0, "", 3.5, "c", has_ended=False)
    record = record_of("t1", ERRORS, Trouble(late=[*late, waiting]), SNAPSHOT, 104.0)
    assert record["slowest"] == [
        {"request_id": "c", "ms": 3500.0, "ended": False},
        {"request_id": "b", "ms": 2000.0, "ended": True},
        {"request_id": "a", "ms": 500.0, "ended": True},
    ]


def test_a_fault_that_old_shares_is_said() -> None:
    shared = Cause(STATUS, "errors", "", excursion=ERRORS.excursion, baseline=Baseline(10, 5))
    assert record_of("t1", shared, Trouble(), SNAPSHOT, 0.0)["baseline"]["shared_fault"] is True
    unknown = Cause(STATUS, "errors", "", excursion=ERRORS.excursion, baseline=Baseline())
    assert record_of("t1", unknown, Trouble(), SNAPSHOT, 0.0)["baseline"] == {
        "n": 0,
        "errors": 0,
        "error_percent": None,
        "p95_ms": None,
        "shared_fault": False,
    }


def test_what_other_workers_saw_is_added() -> None:
    record = record_of("t1", ERRORS, Trouble([failed(101.0, name="mine", seconds=0.2)]), SNAPSHOT, 104.0)
    other = part_of(Trouble([failed(1.0, name="theirs", seconds=0.9), failed(2.0, "timeout")]), 0.0)
    whole = with_parts(record, [other])
    assert whole["error_kinds"] == [{"kind": "status 500", "n": 2}, {"kind": "timeout", "n": 1}]
    assert whole["failed"][:2] == ["mine", "theirs"]
    assert [slow["request_id"] for slow in whole["slowest"]] == ["theirs", "mine", "r"]
    assert whole["reason"] == record["reason"]


def test_a_hard_floor_has_no_statistics() -> None:
    record = record_of("t1", Cause(SCOPE_ALL, "absence", "absence: ten"), Trouble(), SNAPSHOT, 5.0)
    assert (record["excursion"]["n"], record["baseline"], record["effective_scope"]) == (None, None, "all")
    assert set(record["policy_before"]["operations"]) == set(SNAPSHOT.plans)
