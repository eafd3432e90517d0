"""Why new is taken out, in the numbers of the moment: what the record of a trip is made from."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.detect.guard import Trip
from gateway.core.detect.record import Baseline, Cause
from gateway.core.model import Scope
from gateway.guard.hearing import Hearing
from gateway.guard.watched import Mark, Watched


def trip_of(scope: Scope, watched: Watched, trip: Trip, hearing: Hearing) -> Cause:
    """A detector has seen enough.

    Args:
        scope: What is taken out.
        watched: The operation, or all together.
        trip: What was seen.
        hearing: Of the other workers.
    """
    found, mark = trip.excursion, trip.excursion.mark
    if isinstance(mark, tuple):
        # Of all together: theirs comes first, then those of the operations.
        mark = mark[0]
    n, errors, new_p95_s, old_p95_s = 0, 0, None, None
    if isinstance(mark, Mark):
        n, errors = watched.old_since(mark)
        new_p95_s = (watched.durations.new - mark.new).quantile(0.95)
        old_p95_s = (watched.durations.old - mark.old).quantile(0.95)
    return replace(
        _now(scope, watched, hearing),
        signal=trip.signal.value,
        reason=trip.reason(),
        since=found.since,
        excursion=found,
        threshold=trip.threshold,
        limit_s=trip.limit_s or None,
        new_p95_s=new_p95_s,
        baseline=Baseline(n, errors, None if old_p95_s is None else round(1000 * old_p95_s, 3)),
    )


def silence_of(scope: Scope, watched: Watched, hearing: Hearing) -> Cause:
    """Nothing comes back."""
    why = f"silence: {watched.waiting} requests wait for new, and none was answered for a while"
    return replace(_now(scope, watched, hearing), signal="silence", reason=why, limit_s=watched.baseline.limit_s)


def _now(scope: Scope, watched: Watched, hearing: Hearing) -> Cause:
    """What is the same for every cause."""
    return Cause(
        scope,
        "",
        "",
        evidence=watched.guard.scores(),
        dispersion=watched.guard.dispersion,
        workers=hearing.known,
        blind=hearing.blind,
        is_alone=hearing.is_alone,
    )
