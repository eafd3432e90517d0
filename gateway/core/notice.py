"""Notices: what operators are told of without asking, and in which words. Pure.

Made from the audit, which every kill, trip and re-arm goes through; one source, so nothing is told that was not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

_DRILL: Final = "drill:"
_TEXT_LIMIT: Final = 2_000


class NoticeKind(StrEnum):
    """What may be told."""

    TRIP = "trip"
    """A detector took new out."""
    DISARMED = "disarmed"
    """A detector would have, in `complete`: there is no way back any more, a human must act."""
    KILL = "kill"
    """Somebody took new out by hand, by key, by file or by an alert."""
    REARM = "rearm"
    """A kill was taken back."""
    DRILL = "drill"
    """A drill tripped, was put back, passed or failed."""
    STALE = "stale"
    """Redis has not been read for a while, or is read again."""
    TEST = "test"
    """Somebody tries whether this arrives."""


USUAL: Final = frozenset(NoticeKind)
"""What is told where the file does not say."""


class TargetKind(StrEnum):
    """How a target takes notices."""

    WEBHOOK = "webhook"
    """JSON by POST."""
    SLACK = "slack"
    """As Slack's incoming webhooks take it: one member, `text`."""
    COMMAND = "command"
    """A program that reads JSON from its standard input."""


@dataclass(frozen=True, slots=True)
class NoticeTarget:
    """Who is told.

    Attributes:
        kind: How.
        url_file: Holds the URL, which is a secret; None of a command.
        secret_file: Holds the secret that webhooks are signed with, or None.
        argv: The command and its arguments.
        kinds: What it is told of.
    """

    kind: TargetKind
    url_file: str | None = None
    secret_file: str | None = None
    argv: tuple[str, ...] = ()
    kinds: frozenset[NoticeKind] = USUAL


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that is told.

    Attributes:
        id: Of the audit entry, or made up; the same at every attempt.
        kind: What it is.
        migration: Of the migration.
        at: When, ISO 8601.
        target: Operation, group or scope.
        by: Who did it.
        reason: Why, or what.
        evidence: The record of a trip, or None.
    """

    id: str
    kind: NoticeKind
    migration: str
    at: str
    target: str
    by: str
    reason: str
    evidence: Mapping[str, Any] | None = field(default=None, hash=False)

    def text(self) -> str:
        """In words, for people."""
        head = _HEADS[self.kind].format(target=self.target)
        said = f"Crossfade {self.migration}: {head}\n{self.reason}\nby {self.by} at {self.at}"
        hint = _HINTS.get(self.kind)
        return f"{said}\n{hint.format(target=self.target)}"[:_TEXT_LIMIT] if hint else said[:_TEXT_LIMIT]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "version": 1,
            "id": self.id,
            "kind": self.kind.value,
            "migration": self.migration,
            "at": self.at,
            "target": self.target,
            "by": self.by,
            "reason": self.reason,
            "text": self.text(),
            "evidence": None if self.evidence is None else dict(self.evidence),
        }


_HEADS: Final[Mapping[NoticeKind, str]] = {
    NoticeKind.TRIP: "TRIP, {target} is back on old",
    NoticeKind.DISARMED: "NEW FAILS, and {target} is complete: nothing was taken out, somebody must act",
    NoticeKind.KILL: "KILL, {target} is back on old",
    NoticeKind.REARM: "re-armed: {target}",
    NoticeKind.DRILL: "drill on {target}",
    NoticeKind.STALE: "the policy in Redis",
    NoticeKind.TEST: "a test of notifications",
}
_HINTS: Final[Mapping[NoticeKind, str]] = {
    NoticeKind.TRIP: "what was seen: crossfade trips; to come back: crossfade rearm {target} --reason …",
    NoticeKind.DISARMED: "what was seen: crossfade trips; by hand only: crossfade kill {target} --accept-data-loss …",
    NoticeKind.KILL: "to come back: crossfade rearm {target} --reason …",
}
_KINDS: Final[Mapping[str, NoticeKind]] = {
    "trip": NoticeKind.TRIP,
    "trip_disarmed": NoticeKind.DISARMED,
    "kill": NoticeKind.KILL,
    "rearm": NoticeKind.REARM,
    "drill_passed": NoticeKind.DRILL,
    "drill_failed": NoticeKind.DRILL,
    "drill_due": NoticeKind.DRILL,
    "notify_test": NoticeKind.TEST,
}


def notice_of(migration: str, entry: Mapping[str, Any]) -> Notice | None:
    """What is told of an act, or None: nobody needs to know at once.

    Args:
        migration: Of the migration.
        entry: Of the audit, with its `id`. What is missing in it is told as empty.
    """
    kind = _KINDS.get(str(entry.get("action")))
    if kind is None or entry.get("outcome", "done") != "done":
        return None
    by, reason = str(entry.get("by", "")), str(entry.get("reason", ""))
    if by.startswith(_DRILL):
        # Rehearsed: nobody must be woken by it.
        kind = NoticeKind.DRILL
    if kind is NoticeKind.DRILL and not reason:
        reason = str(entry.get("action"))
    return Notice(
        id=str(entry.get("id", "")),
        kind=kind,
        migration=migration,
        at=str(entry.get("at", "")),
        target=str(entry.get("target", "")),
        by=by,
        reason=reason,
    )
