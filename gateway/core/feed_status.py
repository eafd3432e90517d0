"""How far a process can trust its view of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.core.snapshot import SnapshotOrigin


class FeedState(StrEnum):
    """Worst of what is wrong."""

    OK = "ok"
    STALE = "stale"
    """Redis could not be read for too long."""
    DEGRADED = "degraded"
    """Redis answers, but holds something that contradicts what this process knows."""


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """What an operator wants to know about a feed.

    Attributes:
        state: Worst of what is wrong.
        why: What is wrong, for humans, or None.
        age_s: Since the last successful read; None before the first.
        redis_epoch: What Redis said then; None when it held no policy.
        origin: Where the policy in force came from; None while there is none.
    """

    state: FeedState
    why: str | None
    age_s: float | None
    redis_epoch: int | None
    origin: SnapshotOrigin | None
