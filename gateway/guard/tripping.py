"""What a trip does: takes new out on this worker at once, and keeps a record of why. Knows no Redis and no sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from gateway.core.audit import AuditEntry
from gateway.core.detect.record import Cause, Seen, Trouble, record_of
from gateway.core.drill import DrillOrder, tripped_by
from gateway.core.kills import kill_is_lossless
from gateway.core.model import SCOPE_ALL, Latch, LatchKind, Scope, ScopeKind
from gateway.core.snapshot import Snapshot
from gateway.ports import Clock

DISARMED: Final = "trip_disarmed"
"""What the audit calls a trip that did not happen: in `complete` there is no way back."""
_REASON_LIMIT: Final = 500

_log = structlog.get_logger("crossfade.guard")


class Latching(Protocol):
    """Where kills go."""

    def kill_locally(self, latch: Latch, record: str = "") -> None:
        """Latches here at once, and in the store as soon as it takes it."""
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

    def trip(self, cause: Cause) -> None:
        """Takes new out: here at once, everywhere as soon as Redis takes it."""
        snapshot = self._sources.snapshot()
        if snapshot is None:
            return
        at, by = datetime.now(UTC), f"detector:{self._worker}"
        name, reason = self._sources.name(), cause.reason[:_REASON_LIMIT]
        record = self._record(name, cause, snapshot) | {"at": at.isoformat(), "by": by}
        if not kill_is_lossless(snapshot.definition, snapshot.policy, cause.scope):
            # Old is not whole any more: nobody but a human may go back to it. It is said, to whoever is on call.
            _log.error(DISARMED, scope=str(cause.scope), why=reason)
            entry = AuditEntry(
                by=by,
                role="",
                action=DISARMED,
                target=str(cause.scope),
                reason=reason,
                changed={},
                request_id="",
                at=at.isoformat(),
                evidence=name,
            )
            self._latching.tell(entry, json.dumps(record | {"disarmed": True}))
            return
        drill = self._sources.drill()
        if drill is not None and _is_drilled(cause.scope, drill):
            by = tripped_by(drill.drill, by)
        latch = Latch(cause.scope, LatchKind.TRIP, reason, by, at, name)
        self._latching.kill_locally(latch, json.dumps(record | {"by": by, "disarmed": False}))

    def trip_all(self, cause: Cause) -> None:
        """As `trip`, where there is something on new that could be taken out."""
        snapshot = self._sources.snapshot()
        if snapshot is None or not any(plan.effective and not plan.latch for plan in snapshot.plans.values()):
            return
        assert cause.scope == SCOPE_ALL
        self.trip(cause)

    def _record(self, name: str, cause: Cause, snapshot: Snapshot) -> dict[str, Any]:
        sources, now = self._sources, self._sources.clock()
        operation = cause.scope.name if cause.scope.kind is ScopeKind.OPERATION else None
        waiting = [
            Seen(now, "", now - request.began, request.request_id.decode("latin-1"), has_ended=False)
            for request in tuple(sources.on_new)
            if request.operation is not None
            and operation in (None, request.operation)
            and (request.is_late or cause.signal == "silence")
        ]
        late = [*sources.noticed.late(operation), *waiting]
        return record_of(name, cause, Trouble(sources.noticed.failures(operation), late), snapshot, now)


def _is_drilled(scope: Scope, drill: DrillOrder) -> bool:
    """Whether the fault of a drill can have made a scope trip: it meets requests of one operation alone."""
    return scope in (SCOPE_ALL, Scope(ScopeKind.OPERATION, drill.operation))
