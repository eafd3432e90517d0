"""Drills: a rehearsed rollback with a fault injected on the way to new, timed. Pure.

What a drill asks of the workers, which keys it touches, what its own requests look like, and how its times are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from gateway.core.model import (
    Definition,
    KeyRecipe,
    KeySourceKind,
    Latch,
    Operation,
    Ppm,
    RestMatch,
)
from gateway.core.side_choice import key_hash, share_limit

PREFIX: Final = "crossfade-drill-"
"""Begins every part of a key that a drill makes up."""
_BY: Final = "drill:"
_REASON_LIMIT: Final = 500
_SLOW_UNKNOWN_S: Final = 1.0
_SLOW_FACTOR: Final = 4
_SLOW_BEYOND_S: Final = 0.05


class Fault(StrEnum):
    """What is made to go wrong."""

    ERRORS = "errors"
    """New answers 503."""
    SLOW = "slow"
    """New answers late."""
    HANG = "hang"
    """New takes requests and never answers."""
    DOWN = "down"
    """Nobody can be connected to."""
    MISMATCH = "mismatch"
    """New answers something else than old; seen by comparisons alone, never by clients."""
    FLIPS = "flips"
    """Nothing goes wrong: a flag goes to and fro."""

    def provokes(self, signal: str) -> bool:
        """Whether it can make a signal (`record.Cause.signal`) trip; any other trip is a real one."""
        return signal in _PROVOKED[self]


_UNANSWERED: Final = frozenset({"latency", "silence", "errors", "absence"})
"""Beyond its deadline, what is late is a failure."""
_PROVOKED: Final[Mapping[Fault, frozenset[str]]] = {
    Fault.ERRORS: frozenset({"errors"}),
    Fault.SLOW: _UNANSWERED,
    Fault.HANG: _UNANSWERED,
    Fault.DOWN: frozenset({"errors", "absence"}),
    Fault.MISMATCH: frozenset({"consistency"}),
    Fault.FLIPS: frozenset(),
}


@dataclass(frozen=True, slots=True)
class DrillOrder:
    """What the workers are told.

    Attributes:
        drill: Random name of the drill.
        fault: What goes wrong.
        operation: The operation that is drilled; only its requests are touched, as far as their keys are.
        share: Share of all keys that are touched besides the drill's own.
        begins_at: Unix seconds; workers begin together.
        ends_at: Unix seconds; they end by themselves then, whoever is gone.
    """

    drill: str
    fault: Fault
    operation: str
    share: Ppm
    begins_at: float
    ends_at: float

    def touches(self, key: str | None) -> bool:
        """Whether requests of a key see the fault."""
        if key is None:
            return False
        if self.owns(key):
            return True
        return bool(self.share) and key_hash(_BY + self.drill, key) < share_limit(self.share)

    def owns(self, key: str | None) -> bool:
        """Whether a key is made up by the drill: nobody was ever told anything under it."""
        return key is not None and key.startswith(PREFIX + self.drill)

    def is_on(self, now: float) -> bool:
        """Whether the fault is to be seen at a time."""
        return self.begins_at <= now < self.ends_at

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "drill": self.drill,
            "fault": self.fault.value,
            "operation": self.operation,
            "share": self.share,
            "begins_at": self.begins_at,
            "ends_at": self.ends_at,
        }

    @classmethod
    def parse(cls, text: str | bytes) -> DrillOrder:
        """Reads what `document` wrote.

        Raises:
            ValueError: It is not one.
        """
        try:
            found = json.loads(text)
            return cls(
                str(found["drill"]),
                Fault(found["fault"]),
                str(found["operation"]),
                Ppm(int(found["share"])),
                float(found["begins_at"]),
                float(found["ends_at"]),
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"not an order for a drill: {exc}") from exc


def tripped_by(drill: str, detector: str) -> str:
    """Who is named in a trip that a drill has provoked."""
    return f"{_BY}{drill}:{detector}"


def is_rehearsed(latch: Latch, drill: str | None = None) -> bool:
    """Whether a trip was provoked by a drill (by this one, where it is named)."""
    return latch.by.startswith(_BY if drill is None else f"{_BY}{drill}:")


def as_real(latch: Latch, why: str) -> Latch:
    """A trip that a drill provoked, as the real one that it turned out to be: it cools down, and a human re-arms it.

    Args:
        latch: Of the drill.
        why: It is one.
    """
    by = latch.by.removeprefix(_BY).partition(":")[2] or latch.by
    return replace(latch, by=by, reason=f"{latch.reason}; {why}"[:_REASON_LIMIT])


def slow_delay_s(p50_s: float | None, limit_s: float | None) -> float:
    """By how much a slow new is slower: above what its detector allows, whatever is normal here."""
    if limit_s is None:
        return _SLOW_UNKNOWN_S
    return max(_SLOW_FACTOR * (p50_s or 0.0), limit_s + _SLOW_BEYOND_S)


# --- requests of its own -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """A request that a drill sends.

    Attributes:
        method: HTTP method.
        path: With query.
        headers: Name to value.
        body: JSON, or empty.
        key: As the gateway reads it.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    key: str


class NoDrillRequestError(ValueError):
    """No request can be made up for an operation."""


def key_part(drill: str, number: int) -> str:
    """A part of a key that nobody else has."""
    return f"{PREFIX}{drill}-{number}"


def request_for(definition: Definition, operation: Operation, part: str) -> DrillRequest:
    """A request of an operation whose key has `part` in every place.

    Raises:
        NoDrillRequestError: Its key cannot be made up: it is the client's address.
    """
    recipe = _recipe(definition.groups[operation.group].recipes, operation)
    headers: dict[str, str] = {}
    query: list[str] = []
    cookies: list[str] = []
    arguments: dict[str, Any] = {}
    for source in recipe:
        match source.kind:
            case KeySourceKind.HEADER:
                headers[source.name] = part
            case KeySourceKind.QUERY:
                query.append(f"{source.name}={part}")
            case KeySourceKind.COOKIE:
                cookies.append(f"{source.name}={part}")
            case KeySourceKind.ARGUMENT:
                _set(arguments, source.name.split("."), part)
            case _:
                pass
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    key = "/".join([part] * len(recipe))
    if operation.rest:
        return _rest_request(operation.rest[0], part, headers, query, arguments, key)
    assert operation.mcp is not None
    assert definition.mcp_path is not None
    headers |= {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    call = {
        "jsonrpc": "2.0",
        "id": part,
        "method": "tools/call",
        "params": {"name": operation.mcp, "arguments": arguments},
    }
    return DrillRequest("POST", definition.mcp_path, headers, json.dumps(call).encode(), key)


def _rest_request(
    match: RestMatch, part: str, headers: dict[str, str], query: list[str], arguments: dict[str, Any], key: str
) -> DrillRequest:
    path = "/".join(["", *(part if segment.startswith("{") else segment for segment in match.segments)])
    if query:
        path += "?" + "&".join(query)
    body = b""
    if match.method in ("POST", "PUT", "PATCH"):
        headers["content-type"] = "application/json"
        body = json.dumps(arguments).encode()
    return DrillRequest(match.method, path, headers, body, key)


def _recipe(recipes: Iterable[KeyRecipe], operation: Operation) -> KeyRecipe:
    has_body = not operation.rest or operation.rest[0].method in ("POST", "PUT", "PATCH")
    for recipe in recipes:
        kinds = {source.kind for source in recipe}
        if KeySourceKind.CLIENT_ADDRESS in kinds or (KeySourceKind.ARGUMENT in kinds and not has_body):
            continue
        if KeySourceKind.PATH in kinds and not operation.rest:
            continue
        return recipe
    raise NoDrillRequestError(f"{operation.name}: no key can be made up for it; drill another operation")


def _set(target: dict[str, Any], path: Sequence[str], value: str) -> None:
    for name in path[:-1]:
        target = target.setdefault(name, {})
    target[path[-1]] = value


# --- times ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of the drill's load.

    Attributes:
        sent_at: Unix seconds.
        ended_at: Likewise.
        side: Who answered, or empty.
        is_failed: No answer, or one that blames the side.
        is_late: Slower than what the detector allows.
    """

    sent_at: float
    ended_at: float
    side: str
    is_failed: bool
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class WorkerNote:
    """What one worker saw of a drill.

    Attributes:
        worker: Its name.
        begun_at: When its fault began; None: not yet.
        out_at: When new was out there; None: not yet.
        last_at: When a request was last started on new, touched by the fault or not; None: never.
        faults: Requests that were touched.
    """

    worker: str
    begun_at: float | None = None
    out_at: float | None = None
    last_at: float | None = None
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """How long everything took, in seconds; None: it never happened.

    Attributes:
        to_trip_s: From the fault to the kill that was stored.
        to_zero_s: From the fault to the last request that any worker started on new.
        to_recovery_s: From the fault to the end of the last failed or late answer that a client of the drill got.
    """

    to_trip_s: float | None = None
    to_zero_s: float | None = None
    to_recovery_s: float | None = None


def times_of(
    begun_at: float, tripped_at: float | None, notes: Iterable[WorkerNote], samples: Iterable[Sample]
) -> Times:
    """Reads the times off what was seen.

    Args:
        begun_at: When the fault began; Unix seconds, like the rest.
        tripped_at: When the kill was stored.
        notes: Of all workers.
        samples: Of the load.
    """
    if tripped_at is None:
        return Times()
    seen = list(notes)
    zero = None
    if seen and all(note.out_at is not None for note in seen):
        zero = max(0.0, max((note.last_at or begun_at) for note in seen) - begun_at)
    bad = [s.ended_at for s in samples if (s.is_failed or s.is_late) and s.ended_at >= begun_at]
    recovery = max(0.0, max(bad, default=begun_at) - begun_at)
    return Times(_rounded(max(0.0, tripped_at - begun_at)), _rounded(zero), _rounded(recovery))


@dataclass(slots=True)
class Series:
    """Requests over time, in slots of equal length, for a plot.

    Attributes:
        slot_s: Length of a slot.
        from_s: Seconds of the first slot, from the fault on: negative.
        old: Answered by old, by slot.
        new: Answered by new and well.
        failed: Failed or late.
    """

    slot_s: float = 0.25
    from_s: float = 0.0
    old: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def series_of(begun_at: float, samples: Sequence[Sample], *, before_s: float = 5.0, slot_s: float = 0.25) -> Series:
    """What the load saw around the fault, by when requests ended."""
    series = Series(slot_s=slot_s, from_s=-before_s)
    shown = [sample for sample in samples if sample.ended_at >= begun_at - before_s]
    if not shown:
        return series
    slots = int((max(sample.ended_at for sample in shown) - begun_at + before_s) / series.slot_s) + 1
    series.old, series.new, series.failed = [0] * slots, [0] * slots, [0] * slots
    for sample in shown:
        slot = int((sample.ended_at - begun_at + before_s) / series.slot_s)
        counts = series.failed if sample.is_failed or sample.is_late else getattr(series, sample.side or "failed")
        counts[slot] += 1
    return series


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


# --- when the next one is due --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Debt:
    """What is wrong about the drills that were.

    Attributes:
        about: Names it; stays the same while it is the same one.
        said: In words.
    """

    about: str
    said: str


def drill_debt(reports: Sequence[Mapping[str, Any]], every_s: float | None, now: float) -> Debt | None:
    """What is wrong about the drills that were, or None: the last one failed, or it is too long ago that one passed.

    Args:
        reports: Newest first; `passed` and `at` (ISO 8601) of each are read.
        every_s: How old the last that passed may be; None: nobody wants to know.
        now: Unix seconds.
    """
    if every_s is None:
        return None
    ended = [report for report in reports if report.get("passed") is not None]
    if ended and not ended[0]["passed"]:
        last = ended[0]
        return Debt(f"failed {last['id']}", f"the last drill failed: {last['id']} ({last['fault']}): {last.get('why')}")
    # Flips prove something else: nothing was taken back in them.
    rehearsed = [report for report in ended if report["passed"] and report["fault"] != Fault.FLIPS]
    if not rehearsed:
        return Debt("none", "no drill has passed yet: crossfade drill --fault errors")
    last = max(rehearsed, key=lambda report: _at(report))
    age_s = now - _at(last)
    if age_s <= every_s:
        return None
    days = age_s / 86_400
    return Debt(
        f"overdue {last['id']}", f"the last drill that passed is {days:.1f} days old: crossfade drill --fault errors"
    )


def _at(report: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(report["at"]).timestamp()
