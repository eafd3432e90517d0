"""What a trip does: takes new out on this worker at once, and keeps a record of why. Knows no Redis and no sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import structlog

from gateway.core.audit import AuditEntry
from gateway.core.detect.record import Cause, Seen, Trouble, part_of, record_of
from gateway.core.drill import DrillOrder, tripped_by
from gateway.core.kills import kill_is_lossless
from gateway.core.model import SCOPE_ALL, Latch, LatchKind, Scope, ScopeKind, Stage
from gateway.core.snapshot import Snapshot, covers
from gateway.ports import Clock

DISARMED: Final = "trip_disarmed"
"""What the audit calls a trip that did not happen: in `complete` there is no way back."""
_REASON_LIMIT: Final = 500
_RECENT: Final = timedelta(seconds=60)

_log = structlog.get_logger("crossfade.guard")


class Latching(Protocol):
    """Where kills go."""

    def kill_locally(self, latch: Latch) -> None:
        """Latches here at once, and in the store as soon as it takes it."""
        ...

    def keep_record(self, latch: Latch, record: str) -> None:
        """Keeps what was seen, with a latch that was just given."""
        ...

    def add_part(self, trip: str, part: str) -> None:
        """Adds what this worker saw to the record of a trip that another one made."""
        ...

    def tell(self, entry: AuditEntry, record: str) -> None:
        """Notes in the audit, once for all workers, what changed nothing."""
        ...


class Noticed(Protocol):
    """What this worker saw go wrong lately."""

    def failures(self, operation: str | None) -> list[Seen]:
        """Requests that failed; of one operation, or of all."""
        ...

    def late(self, operation: str | None) -> list[Seen]:
        """Requests that took too long."""
        ...


class Waiting(Protocol):
    """A request that waits for new."""

    began: float
    is_late: bool

    @property
    def operation(self) -> str | None:
        """Its operation's name."""
        ...

    @property
    def request_id(self) -> bytes:
        """Its id."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """What a trip asks.

    Attributes:
        snapshot: The policy in force.
        drill: The drill whose fault is on, or was a moment ago; else None.
        noticed: What went wrong here.
        on_new: Requests that wait for new.
        clock: Monotonic seconds.
        name: Makes up the name of a record.
    """

    snapshot: Callable[[], Snapshot | None]
    drill: Callable[[], DrillOrder | None]
    noticed: Noticed
    on_new: Iterable[Waiting]
    clock: Clock
    name: Callable[[], str]


class Tripper:
    """Takes new out for one worker."""

    def __init__(self, worker: str, latching: Latching, sources: Sources) -> None:
        """Does nothing yet.

        Args:
            worker: Its name.
            latching: Where kills go.
            sources: What it asks.
        """
        self._worker = worker
        self._latching = latching
        self._sources = sources
        self._known: set[str] = set()

    def trip(self, cause: Cause) -> None:
        """Takes new out: here at once, everywhere as soon as Redis takes it."""
        snapshot = self._sources.snapshot()
        if snapshot is None:
            return
        if kill_is_lossless(snapshot.definition, snapshot.policy, cause.scope):
            self._latch(cause, snapshot)
            return
        # Old is not whole any more where it is `complete`: nobody but a human may go back there. It is said, to whoever
        # is on call. The rest of the scope has a way back, and takes it.
        rest = [scope for scope in _parts_of(snapshot, cause.scope) if scope != cause.scope]
        for scope in rest:
            self._latch(replace(cause, scope=scope), snapshot)
        self._say_disarmed(cause, snapshot)

    def trip_all(self, cause: Cause) -> None:
        """As `trip`, where there is something on new that could be taken out."""
        snapshot = self._sources.snapshot()
        if snapshot is None or not any(plan.effective and not plan.latch for plan in snapshot.plans.values()):
            return
        assert cause.scope == SCOPE_ALL
        self.trip(cause)

    def policy_changed(self) -> None:
        """Somebody may have tripped: adds what this worker saw to the record."""
        snapshot = self._sources.snapshot()
        if snapshot is None:
            return
        trips = {latch.evidence: latch for latch in snapshot.latches.values() if latch.evidence is not None}
        news = trips.keys() - self._known
        self._known &= trips.keys()
        self._known |= news
        for name in news:
            latch = trips[name]
            # What is in force since before this worker began is not its business either.
            if latch.by.endswith(f"detector:{self._worker}") or datetime.now(UTC) - latch.at > _RECENT:
                continue
            now = self._sources.clock()
            operation = latch.scope.name if latch.scope.kind is ScopeKind.OPERATION else None
            part = part_of(self._trouble(operation, now, is_silent=False), now - _RECENT.total_seconds())
            if part["failed"] or part["slowest"]:
                self._latching.add_part(name, json.dumps(part))

    def _latch(self, cause: Cause, snapshot: Snapshot) -> None:
        drill, by = self._sources.drill(), f"detector:{self._worker}"
        if drill is not None and _is_drilled(cause, drill):
            by = tripped_by(drill.drill, by)
        at, name = datetime.now(UTC), self._sources.name()
        latch = Latch(cause.scope, LatchKind.TRIP, cause.reason[:_REASON_LIMIT], by, at, name)
        self._latching.kill_locally(latch)
        # Only now: nothing about a record may stand in the way of the kill.
        record = self._record(name, cause, snapshot)
        if record is not None:
            more = {"at": at.isoformat(), "by": by, "disarmed": False}
            self._latching.keep_record(latch, json.dumps(record | more))

    def _say_disarmed(self, cause: Cause, snapshot: Snapshot) -> None:
        at, by, name = datetime.now(UTC).isoformat(), f"detector:{self._worker}", self._sources.name()
        _log.error(DISARMED, scope=str(cause.scope), why=cause.reason)
        entry = AuditEntry(
            by=by,
            role="",
            action=DISARMED,
            target=str(cause.scope),
            reason=cause.reason[:_REASON_LIMIT],
            changed={},
            request_id="",
            at=at,
            evidence=name,
        )
        record = self._record(name, cause, snapshot)
        more = {"at": at, "by": by, "disarmed": True}
        self._latching.tell(entry, "" if record is None else json.dumps(record | more))

    def _record(self, name: str, cause: Cause, snapshot: Snapshot) -> dict[str, Any] | None:
        try:
            return self._put_together(name, cause, snapshot)
        except Exception:
            # A boundary of its own: without its record a trip is still a trip.
            _log.exception("trip_not_recorded", scope=str(cause.scope))
            return None

    def _put_together(self, name: str, cause: Cause, snapshot: Snapshot) -> dict[str, Any]:
        now = self._sources.clock()
        operation = cause.scope.name if cause.scope.kind is ScopeKind.OPERATION else None
        trouble = self._trouble(operation, now, is_silent=cause.signal == "silence")
        return record_of(name, cause, trouble, snapshot, now)

    def _trouble(self, operation: str | None, now: float, *, is_silent: bool) -> Trouble:
        sources = self._sources
        waiting = [
            Seen(now, "", now - request.began, request.request_id.decode("latin-1"), has_ended=False)
            for request in tuple(sources.on_new)
            if request.operation is not None
            and operation in (None, request.operation)
            and (request.is_late or is_silent)
        ]
        return Trouble(sources.noticed.failures(operation), [*sources.noticed.late(operation), *waiting])


def _parts_of(snapshot: Snapshot, scope: Scope) -> list[Scope]:
    """The operations under a scope that are on new and have a way back."""
    return [
        Scope(ScopeKind.OPERATION, plan.operation.name)
        for plan in snapshot.plans.values()
        if plan.effective
        and plan.latch is None
        and plan.stage is not Stage.COMPLETE
        and covers(snapshot.definition, scope, plan.operation)
    ]


def _is_drilled(cause: Cause, drill: DrillOrder) -> bool:
    """Whether the fault of a drill can have made a trip: it meets requests of one operation, and shows in its way."""
    is_met = cause.scope in (SCOPE_ALL, Scope(ScopeKind.OPERATION, drill.operation))
    return is_met and drill.fault.provokes(cause.signal)
