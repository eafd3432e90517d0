"""What control answers: pydantic models, so that the code and `docs/openapi.json` cannot drift apart.

Percentages are numbers 0-100. Unknown is null, never 0.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = int | float


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(by_alias=True)


class Delta(Answer):
    """A field before and after a change."""

    before: Any
    after: Any


class KillState(Answer):
    """A kill in force."""

    scope: str
    effective_scope: str
    kind: Literal["kill", "trip"]
    reason: str
    by: str
    at: str
    evidence: str | None = None


class GroupState(Answer):
    """A group. `stage` and `percent` are null where its operations differ."""

    writes: Literal["dual", "shared", "none"]
    stage: str | None
    percent: Number | None
    dual_percent: Number
    pending: int | None
    unprotected: bool


class Comparisons(Answer):
    """How answers of both sides compared."""

    match: int | None = None
    suspected: int | None = None
    mismatch: int | None = None
    incomparable: int | None = None
    skipped: int | None = None


class SideState(Answer):
    """What a side did lately."""

    n: int | None = None
    errors: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class OperationState(Answer):
    """An operation.

    `dispersion` is by how much evidence of errors is divided (1-10), `limit_ms` what is too slow for new, `baseline`
    what that comes from.
    """

    op_class: Literal["read", "write"] = Field(alias="class")
    group: str
    stage: str
    percent: Number
    effective_percent: Number
    actual_percent: Number | None
    mirror_percent: Number
    killed: bool
    detector: Literal["armed", "not_armed", "no_data", "hold", "tripped"]
    why: str | None
    evidence_percent: Number | None
    dispersion: float | None = None
    limit_ms: float | None = None
    baseline: Literal["served", "copied", "reference", "kept"] | None = None
    comparisons: Comparisons
    consistency: float | None
    window_s: float | None
    sides: dict[Literal["old", "new"], SideState]


class WorkerState(Answer):
    """A gateway worker: what it decides by, and since when it is silent."""

    id: str
    epoch: int | None
    age_s: float | None
    state: str | None
    definition: str | None
    silent_s: float | None


class Status(Answer):
    """Everything at a glance."""

    migration: str
    epoch: int
    lineage: str
    state: Literal["ok", "stale", "degraded"]
    why: str | None
    policy_age_s: float | None
    definition: str
    break_glass: list[str]
    notes: list[str]
    kills: list[KillState]
    groups: dict[str, GroupState]
    operations: dict[str, OperationState]
    workers: list[WorkerState]


class ChangedOperation(OperationState):
    """An operation after a change."""

    epoch: int
    changed: dict[str, Delta]
    name: str


class ChangedGroup(GroupState):
    """A group after a change."""

    epoch: int
    changed: dict[str, Delta]
    name: str


class Killed(KillState):
    """A kill that is in force now."""

    epoch: int
    changed: dict[str, Delta]


class Incident(Answer):
    """What an alert did: `scope` is killed, or nothing, since it is over."""

    epoch: int
    killed: bool
    scope: str
    reason: str | None


class Rearmed(Answer):
    """A kill that is gone, and what still kills the same operations."""

    epoch: int
    changed: dict[str, Delta]
    scope: str
    effective_scope: str
    still_killed_by: list[str]


class Applied(Answer):
    """A file's policy, applied or only compared."""

    epoch: int
    changed: dict[str, Delta]
    dry_run: bool


class Difference(Answer):
    """Where the stored policy differs from the file's: `before` is stored, `after` the file's."""

    epoch: int
    definition: str
    differences: dict[str, dict[str, Delta]]


class Explained(Answer):
    """Which side a key goes to, and why."""

    operation: str | None
    key: str | None
    side: Literal["old", "new"] | None
    reason: Literal[
        "kill", "stage", "pending", "deny", "allow", "force", "percent", "no_key", "default", "stale_policy"
    ]
    bucket_ppm: int | None
    percent: Number | None
    stage: str | None
    epoch: int
    pending: bool | None


class AuditItem(Answer):
    """An act."""

    id: str
    epoch: int | None
    by: str
    role: str
    action: str
    target: str
    reason: str
    changed: dict[str, Any]
    request_id: str
    at: str
    outcome: str
    evidence: str | None = None


class Excursion(Answer):
    """What a detector saw since its evidence left zero; null where no statistics were needed."""

    n: int | None
    bad: int | None
    percent: float | None
    bet_percent: float | None
    seconds: float
    threshold_percent: float | None
    limit_ms: float | None
    p95_ms: float | None


class TripBaseline(Answer):
    """What old did at the same time. `shared_fault`: it failed as often."""

    n: int
    errors: int
    error_percent: float | None
    p95_ms: float | None
    shared_fault: bool


class ErrorKind(Answer):
    """Failures of one kind, as the worker that tripped saw them."""

    kind: str
    n: int


class SlowRequest(Answer):
    """A request that took long; `ended` is false where it still waited."""

    request_id: str
    ms: float | None
    ended: bool


class TripWorkers(Answer):
    """Who was heard. `alone`: Redis did not answer, and the worker judged what it saw itself."""

    heard: int
    blind: int
    alone: bool


class OperationBefore(Answer):
    """An operation as it stood."""

    stage: str
    percent: Number
    effective_percent: Number


class PolicyBefore(Answer):
    """The policy before the trip, as far as it was taken out."""

    epoch: int
    kills: list[str]
    operations: dict[str, OperationBefore]


class TripRecord(Answer):
    """What a detector saw when it tripped. `disarmed`: it took nothing out, there was no way back any more."""

    id: str
    at: str
    by: str
    signal: str
    scope: str
    effective_scope: str
    reason: str
    disarmed: bool
    excursion: Excursion
    detectors: dict[str, Any]
    baseline: TripBaseline | None
    workers: TripWorkers
    error_kinds: list[ErrorKind]
    failed: list[str]
    slowest: list[SlowRequest]
    policy_before: PolicyBefore


class TripPage(Answer):
    """Records of trips, newest first."""

    items: list[TripRecord]
    next: str | None


class NoticeSent(Answer):
    """How many targets will be told; whether they were is in status and metrics."""

    targets: int


class AuditPage(Answer):
    """Acts, newest first."""

    items: list[AuditItem]
    next: str | None


class DifferenceState(Answer):
    """One place where two answers differ: shapes and digests, never values.

    `is_alike` says of two values whether type and form agree; null where it is not known.
    """

    path: str
    kind: str
    left: str
    right: str
    left_digest: str
    right_digest: str
    is_alike: bool | None = None


class ComparisonGroup(Answer):
    """Differences of one kind. `left` is the serving side."""

    signature: str
    operation: str
    serving: Literal["old", "new"]
    rules: str
    differences: list[DifferenceState]
    suspected: int
    mismatch: int
    refuted: int
    first_seen: float
    last_seen: float
    request_ids: list[str]


class ComparisonPage(Answer):
    """Groups of differences, last seen first."""

    items: list[ComparisonGroup]
    next: str | None


class ConsistencyItem(Answer):
    """The three figures of a group or an operation, 0-1; what is not measured is null.

    Read agreement is of the last `window_s` seconds, and begins anew when the rules of an operation change: `since`
    (Unix seconds) says from when on it counts, `rules` under which version; a group's operations have their own.
    """

    target: str
    window_s: int
    since: float | None
    rules: str | None
    matches: int
    mismatches: int
    incomparable: dict[str, int]
    read_agreement: float | None
    read_agreement_at_least: float | None
    write_delivery: float | None
    state: float | None


class ConsistencyList(Answer):
    """How far both sides hold the same."""

    items: list[ConsistencyItem]
    next: str | None


Relaxation = Literal["shape", "order", "presence", "length", "null", "number"]


class ProposalState(Answer):
    """A part that differs between two answers of one side. `relax` is null where nothing makes it pass."""

    path: str
    relax: Relaxation | None
    seen: int
    pairs: int
    is_held: bool


class NoiseItem(Answer):
    """What was learnt of an operation, and what was accepted."""

    operation: str
    version: int
    pairs: int
    is_too_noisy: bool
    accepted: dict[str, list[Relaxation]]
    proposals: list[ProposalState]


class NoiseList(Answer):
    """Noise of every read."""

    items: list[NoiseItem]
    next: str | None


class TokenState(Answer):
    """A token, without its secret."""

    name: str
    role: str
    created_at: str
    expires_at: str | None
    digest_prefix: str


class TokenList(Answer):
    """All tokens."""

    items: list[TokenState]
    next: None = None


class TokenMade(Answer):
    """A new token with its secret, shown this once."""

    name: str
    role: str
    expires_at: str | None
    token: str


class TokenRevoked(Answer):
    """A token that is no more."""

    name: str
    revoked: Literal[True] = True


class Health(Answer):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ProblemDocument(BaseModel):
    """A refusal (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str


class DrillTimes(Answer):
    """Seconds from the fault on; null: it did not happen."""

    to_trip_s: float | None
    to_zero_s: float | None
    to_recovery_s: float | None


class DrillWorker(Answer):
    """What one worker saw, in seconds from the fault on."""

    id: str
    out_after_s: float | None
    last_on_new_after_s: float | None
    faults: int


class DrillRequests(Answer):
    """The drill's own requests: all that were sent, and what went wrong after the fault began, or before."""

    sent: int
    failed: int
    late: int
    failed_before: int


class DrillSeries(Answer):
    """The drill's own requests over time: how many ended in each slot, the first of which begins at `from_s`."""

    slot_s: float
    from_s: float
    old: list[int]
    new: list[int]
    failed: list[int]


class DrillBefore(Answer):
    """What the drill has moved and puts back; null: it did not move it. `mirror` and `shares` are in millionths."""

    stage: str | None
    mirror: int | None
    shares: dict[str, int] | None = None
    pins: bool = False


class DrillFlip(Answer):
    """What the load saw of a flip, until the next one. `late_s`: to the last call that still went the other way."""

    at_s: float
    to: Literal["old", "new"]
    lasted_s: float
    late_s: float | None
    calls: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None


class DrillChaos(Answer):
    """What was proved by flips. The first of `flips` is the state that was found."""

    every_s: float
    for_s: float
    keys: int
    writes: list[str]
    retried: int
    failed: dict[str, int]
    stuck: list[str]
    locked: list[str]
    flips: list[DrillFlip]


class DrillReport(Answer):
    """A drill as it stands. `passed` is null until it ended."""

    id: str
    phase: Literal["preparing", "arming", "fault", "zero", "recovering", "flipping", "checking", "ended"]
    fault: str
    operation: str
    load: int
    share_percent: Number
    by: str
    reason: str
    at: str
    passed: bool | None
    why: str | None
    armed_after_s: float | None
    times: DrillTimes
    scope: str | None
    trip: str | None
    workers: list[DrillWorker]
    requests: DrillRequests | None
    restored: bool | None
    series: DrillSeries | None
    chaos: DrillChaos | None = None
    before: DrillBefore


class DrillList(Answer):
    """Drills, newest first."""

    items: list[DrillReport]
    next: str | None
