"""What the upstream client counts: plain integers, read when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class DropReason(StrEnum):
    """Why a connection was closed."""

    SURPLUS = "surplus"
    """Bytes came after an answer, or unasked."""
    STALE = "stale"
    """The side closed it while it was idle."""
    RESET = "reset"
    """It broke in mid-exchange."""
    INVALID = "invalid"
    """The answer was not valid HTTP or over a limit."""
    TIMEOUT = "timeout"
    """A deadline passed."""
    CANCELLED = "cancelled"
    """Nobody wants the answer any more."""
    UPLOAD_FAILED = "upload_failed"
    """The request's body failed or did not have its declared length."""
    EARLY_ANSWER = "early_answer"
    """The answer was complete before the request was."""
    SIDE_CLOSES = "side_closes"
    """The answer said so, or ends with the connection."""
    IDLE_TIMEOUT = "idle_timeout"
    """Idle for too long."""
    IDLE_SURPLUS = "idle_surplus"
    """Enough idle ones were kept, or a fresh one needed its place."""
    RETIRED = "retired"
    """The client was replaced or closed."""


@dataclass(frozen=True, slots=True)
class UpstreamStats:
    """The state and the history of one side's client.

    Attributes:
        connecting: Connections being opened.
        idle: Open connections without an exchange.
        in_use: Open connections with one.
        waiting: Exchanges that wait for a connection.
        retries: Exchanges sent a second time.
        ejected: Instances out of the choice now.
        ejections: Times that an instance was taken out.
        unwell: Instances whose health checks fail now.
        drops: Connections closed, by reason; a reason that never occurred may be absent.
    """

    connecting: int
    idle: int
    in_use: int
    waiting: int
    retries: int
    ejected: int
    ejections: int
    unwell: int
    drops: Mapping[DropReason, int]

    def state_blob(self) -> dict[str, Any]:
        """What holds now, for JSON."""
        return {
            "connections": {
                "connecting": self.connecting,
                "idle": self.idle,
                "in_use": self.in_use,
            },
            "waiting": self.waiting,
            "out": {"ejected": self.ejected, "unwell": self.unwell},
        }

    def count_blob(self) -> dict[str, Any]:
        """What only grows, for JSON."""
        return {
            "retries": self.retries,
            "ejections": self.ejections,
            "drops": {reason.value: count for reason, count in self.drops.items()},
        }
