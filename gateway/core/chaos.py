"""A flag that is flipped again and again under load: what is proved by it, and how. Pure.

Proved is what no single rollback shows: that no call fails while keys change sides, that no workspace stays locked by a
call that was under way, and that no key is left with a side that it does not belong to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Any, Final

from gateway.core.drill import DrillRequest, NoDrillRequestError, Sample, key_part, request_for
from gateway.core.model import Definition, Operation, OperationClass, Side

_SERVER_ERROR: Final = 500
_CONFLICTS: Final = (409, 423, 425, 429)
_WRITES: Final = 8
"""Write operations that are taken in turn at most."""


class Judged(StrEnum):
    """What an answer is worth."""

    GOOD = "good"
    """The service has answered, if only that there is nothing of this key."""
    BUSY = "busy"
    """Another call is under way; it goes away by itself, or it is a lock that was left behind."""
    FAILED = "failed"


def judge(status: int | None, body: bytes) -> tuple[Judged, str]:
    """Judges an answer; returns what it is worth, and its code or status.

    Args:
        status: Of the answer; None: there was none.
        body: Of the answer. A problem document, or what an MCP tool returned, says whether it may be tried again.
    """
    if status is None:
        return Judged.FAILED, "no answer"
    said = _error(body)
    code = str(said.get("code") or status)
    if status >= _SERVER_ERROR:
        return Judged.FAILED, code
    if said.get("retryable") is True and (status in _CONFLICTS or said.get("is_tool")):
        return Judged.BUSY, code
    return Judged.GOOD, code


def _error(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    result = found.get("result")
    if isinstance(result, dict) and result.get("isError") and isinstance(result.get("structuredContent"), dict):
        return {**result["structuredContent"], "is_tool": True}
    return found


# --- calls ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChaosCall:
    """A call that is sent again and again.

    Attributes:
        operation: Its operation.
        request: What is sent.
    """

    operation: Operation
    request: DrillRequest


def calls_of(definition: Definition, operation: Operation, drill: str, number: int) -> list[ChaosCall]:
    """The calls of one key: the operation's own, and writes of its group as far as they can be made up.

    They carry the key and nothing else; a service that wants more refuses them, and has worked on the key by then or
    has not.

    Raises:
        NoDrillRequestError: The operation's own cannot be made up.
    """
    part = key_part(drill, number)
    own = ChaosCall(operation, request_for(definition, operation, part))
    found = [own]
    for name in definition.groups[operation.group].operations:
        other = definition.operations[name]
        if other.name == operation.name or other.op_class is not OperationClass.WRITE or len(found) > _WRITES:
            continue
        try:
            request = request_for(definition, other, part)
        except NoDrillRequestError:
            continue
        if request.key == own.request.key:
            found.append(ChaosCall(other, request))
    return found


# --- what came of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flip:
    """One change of the flag.

    Attributes:
        at: Unix seconds.
        to: Where the drill's keys belong from then on.
    """

    at: float
    to: Side


@dataclass(frozen=True, slots=True)
class Chaos:
    """What was proved, for a report.

    Attributes:
        every_s: Between two flips.
        for_s: In all.
        keys: That were asked about.
        writes: Write operations that were among the calls.
        retried: Calls that found another one under way, and were sent again.
        failed: What failed, with how often; at most ten kinds.
        stuck: Keys that were not answered by the side they belong to, at the end.
        locked: Keys that took no further call at the end.
        flips: What each flip did.
    """

    every_s: float
    for_s: float
    keys: int
    writes: list[str]
    retried: int
    failed: dict[str, int]
    stuck: list[str]
    locked: list[str]
    flips: list[dict[str, Any]]

    @property
    def why_failed(self) -> str | None:
        """What was not proved; None: all was."""
        said = []
        if self.failed:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self.failed.items())
            said.append(f"calls failed: {kinds}")
        if self.stuck:
            said.append(f"{len(self.stuck)} keys are stuck: {', '.join(self.stuck[:3])}")
        if self.locked:
            said.append(f"{len(self.locked)} keys are locked: {', '.join(self.locked[:3])}")
        return "; ".join(said) or None


def flip_rows(flips: Sequence[Flip], ended_at: float, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """What the load saw of each flip, until the next one.

    `late_s`: from the flip to the last call that was sent to the other side all the same; null: none was.
    """
    bounds = [*(flip.at for flip in flips), ended_at]
    parts: list[list[Sample]] = [[] for _ in flips]
    ordered = sorted(samples, key=lambda sample: sample.sent_at)
    at = -1
    for sample in ordered:
        while at + 1 < len(flips) and sample.sent_at >= bounds[at + 1]:
            at += 1
        if 0 <= at < len(flips) and sample.sent_at < ended_at:
            parts[at].append(sample)
    return [_row(flip, bounds[0], bounds[index + 1], parts[index]) for index, flip in enumerate(flips)]


def _row(flip: Flip, begun_at: float, until: float, samples: Sequence[Sample]) -> dict[str, Any]:
    wrong = [sample.sent_at - flip.at for sample in samples if sample.side and sample.side != flip.to]
    took = sorted(sample.ended_at - sample.sent_at for sample in samples if not sample.is_failed)
    return {
        "at_s": round(flip.at - begun_at, 3),
        "to": flip.to.value,
        "lasted_s": round(until - flip.at, 3),
        "late_s": round(max(wrong), 3) if wrong else None,
        "calls": len(samples),
        "failed": sum(sample.is_failed for sample in samples),
        "p50_ms": _ms(took, 0.5),
        "p95_ms": _ms(took, 0.95),
        "max_ms": _ms(took, 1.0),
    }


def _ms(took: Sequence[float], share: float) -> float | None:
    return round(1000 * took[max(0, ceil(share * len(took)) - 1)], 1) if took else None


def most_common(kinds: Mapping[str, int], limit: int = 10) -> dict[str, int]:
    """The kinds that were seen most."""
    return dict(sorted(kinds.items(), key=lambda item: -item[1])[:limit])
