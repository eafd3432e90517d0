"""The record of a trip: what a detector saw, in numbers, so that the on-call can judge it. Pure.

It holds counts, durations, request ids and words of closed sets: nothing of what a request or an answer said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.core.detect.cusum import Excursion, Signal
from gateway.core.model import Scope
from gateway.core.percent import percent_of
from gateway.core.snapshot import Snapshot, covers, effective_scope

_KINDS: Final = 5
_SLOWEST: Final = 5
_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """One request to new that failed, was late, or still waits.

    Attributes:
        at: When it ended, in monotonic seconds.
        kind: Of a failure.
        seconds: How long it took, or has waited.
        request_id: Its id.
        has_ended: Whether it is over.
    """

    at: float
    kind: str
    seconds: float
    request_id: str
    has_ended: bool = True


@dataclass(frozen=True, slots=True)
class Baseline:
    """What old did during the excursion.

    Attributes:
        n: Answers.
        errors: Failures among them.
        p95_ms: Of the answers whose time is known; None: there were none.
    """

    n: int = 0
    errors: int = 0
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why new is taken out.

    Attributes:
        scope: What is taken out.
        signal: `errors`, `latency`, `consistency`, `absence` or `silence`.
        reason: In words and numbers.
        since: When it began, in monotonic seconds; None: at this moment.
        excursion: The evidence; None: a hard floor, which needs none.
        threshold: The rate that was exceeded.
        limit_s: What was too slow.
        new_p95_s: Of new during the excursion, or None.
        baseline: Old at the same time; None: it was not looked at.
        evidence: Of each detector at that moment, 0-1.
        dispersion: By how much evidence of errors was divided.
        workers: How many were heard.
        blind: How many of them were silent.
        is_alone: Whether this worker judged without the others: Redis did not answer.
    """

    scope: Scope
    signal: str
    reason: str
    since: float | None = None
    excursion: Excursion | None = None
    threshold: float | None = None
    limit_s: float | None = None
    new_p95_s: float | None = None
    baseline: Baseline | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    dispersion: float = 1.0
    workers: int = 1
    blind: int = 0
    is_alone: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the tripping worker itself saw go wrong.

    Attributes:
        failures: Requests that failed.
        late: Requests that took too long, or still wait.
    """

    failures: Iterable[Seen] = ()
    late: Iterable[Seen] = ()


def record_of(name: str, cause: Cause, trouble: Trouble, snapshot: Snapshot, now: float) -> dict[str, Any]:
    """The record, fit for JSON. Percentages are numbers 0-100; unknown is null.

    Args:
        name: Of the record.
        cause: Why.
        trouble: What this worker saw.
        snapshot: The policy before.
        now: Monotonic seconds, of the clock of `cause` and `trouble`.
    """
    since = cause.since if cause.since is not None else now
    return {
        "id": name,
        "signal": cause.signal,
        "scope": str(cause.scope),
        "effective_scope": str(effective_scope(snapshot.definition, cause.scope)),
        "reason": cause.reason,
        "excursion": _excursion(cause, now - since),
        "detectors": {
            **{signal: round(100 * share, 1) for signal, share in cause.evidence.items()},
            "dispersion": round(cause.dispersion, 2),
            "profile": snapshot.definition.thresholds.profile,
        },
        "baseline": _baseline(cause),
        "workers": {"heard": cause.workers, "blind": cause.blind, "alone": cause.is_alone},
        **part_of(trouble, since),
        "policy_before": {
            "epoch": snapshot.epoch,
            "kills": [str(scope) for scope in snapshot.latches],
            "operations": {
                plan.operation.name: {
                    "stage": plan.stage.value,
                    "percent": percent_of(plan.percent),
                    "effective_percent": percent_of(plan.effective),
                }
                for plan in snapshot.plans.values()
                if covers(snapshot.definition, cause.scope, plan.operation)
            },
        },
    }


def part_of(trouble: Trouble, since: float) -> dict[str, Any]:
    """What one worker saw go wrong, fit for JSON.

    Args:
        trouble: All of it.
        since: Only what ended later, or still waits; monotonic seconds.
    """
    failures = [seen for seen in trouble.failures if seen.at >= since]
    late = [seen for seen in trouble.late if seen.at >= since or not seen.has_ended]
    kinds = Counter(seen.kind for seen in failures).most_common(_KINDS)
    slowest = sorted([*failures, *late], key=lambda seen: -seen.seconds)[:_SLOWEST]
    return {
        "error_kinds": [{"kind": kind, "n": n} for kind, n in kinds],
        "failed": [seen.request_id for seen in failures[-_EXAMPLES:]],
        "slowest": [
            {"request_id": seen.request_id, "ms": _ms(seen.seconds), "ended": seen.has_ended} for seen in slowest
        ],
    }


def with_parts(record: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A record with what other workers saw: each sees the requests that came to it alone."""
    kinds: Counter[str] = Counter()
    failed: list[str] = []
    slowest: list[dict[str, Any]] = []
    for part in (record, *parts):
        for found in part["error_kinds"]:
            kinds[found["kind"]] += found["n"]
        failed += part["failed"]
        slowest += part["slowest"]
    return {
        **record,
        "error_kinds": [{"kind": kind, "n": n} for kind, n in kinds.most_common(_KINDS)],
        "failed": failed[:_EXAMPLES],
        "slowest": sorted(slowest, key=lambda slow: -slow["ms"])[:_SLOWEST],
    }


def _excursion(cause: Cause, seconds: float) -> dict[str, Any]:
    found = cause.excursion
    known: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "threshold_percent": None if cause.threshold is None else round(100 * cause.threshold, 6),
        "limit_ms": _ms(cause.limit_s),
        "p95_ms": _ms(cause.new_p95_s),
    }
    if found is None:
        return {"n": None, "bad": None, "percent": None, "bet_percent": None, **known}
    rate = 100 * found.k / max(found.n, 1)
    bet = round(100 * found.rate, 4)
    return {"n": found.n, "bad": found.k, "percent": round(rate, 4), "bet_percent": bet, **known}


def _baseline(cause: Cause) -> dict[str, Any] | None:
    old, found = cause.baseline, cause.excursion
    if old is None:
        return None
    rate = old.errors / old.n if old.n else None
    is_shared = (
        cause.signal == Signal.ERRORS and rate is not None and found is not None and rate >= found.k / max(found.n, 1)
    )
    return {
        "n": old.n,
        "errors": old.errors,
        "error_percent": None if rate is None else round(100 * rate, 4),
        "p95_ms": old.p95_ms,
        # Old fails as often at the same time: going back may not help. It is gone back to all the same.
        "shared_fault": is_shared,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
