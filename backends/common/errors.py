"""How an operation fails: the closed set of codes, the same on both services, over REST and MCP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Why an operation failed."""

    INVALID_ARGUMENT = "invalid_argument"
    WORKSPACE_REQUIRED = "workspace_required"
    WORKSPACE_MISMATCH = "workspace_mismatch"
    PATH_REFUSED = "path_refused"
    REMOTE_REFUSED = "remote_refused"
    REMOTE_AUTH_FAILED = "remote_auth_failed"
    COPY_REFUSED = "copy_refused"
    UNKNOWN_WORKSPACE = "unknown_workspace"
    NOT_FOUND = "not_found"
    WORKSPACE_BUSY = "workspace_busy"
    CONFLICT = "conflict"
    NOTHING_TO_COMMIT = "nothing_to_commit"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    OUTCOME_UNKNOWN = "outcome_unknown"
    DIVERGED = "diverged"
    TOO_LARGE = "too_large"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    GIT_FAILED = "git_failed"
    RATE_LIMITED = "rate_limited"
    INTERNAL = "internal"
    LOCKS_UNAVAILABLE = "locks_unavailable"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    DEADLINE = "deadline"
    LOCK_LOST = "lock_lost"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code says over HTTP.

    Attributes:
        status: HTTP status.
        retryable: Whether the same call may succeed later without a change.
    """

    status: int
    retryable: bool = False


MEANINGS: Final[Mapping[Code, Meaning]] = {
    Code.INVALID_ARGUMENT: Meaning(400),
    Code.WORKSPACE_REQUIRED: Meaning(400),
    Code.WORKSPACE_MISMATCH: Meaning(400),
    Code.PATH_REFUSED: Meaning(400),
    Code.REMOTE_REFUSED: Meaning(403),
    Code.REMOTE_AUTH_FAILED: Meaning(403),
    Code.COPY_REFUSED: Meaning(403),
    Code.UNKNOWN_WORKSPACE: Meaning(404),
    Code.NOT_FOUND: Meaning(404),
    Code.WORKSPACE_BUSY: Meaning(409, retryable=True),
    Code.CONFLICT: Meaning(409),
    Code.NOTHING_TO_COMMIT: Meaning(409),
    Code.IDEMPOTENCY_IN_PROGRESS: Meaning(409, retryable=True),
    Code.OUTCOME_UNKNOWN: Meaning(409),
    Code.DIVERGED: Meaning(409),
    Code.TOO_LARGE: Meaning(413),
    Code.IDEMPOTENCY_MISMATCH: Meaning(422),
    Code.GIT_FAILED: Meaning(422),
    Code.RATE_LIMITED: Meaning(429, retryable=True),
    Code.INTERNAL: Meaning(500),
    Code.LOCKS_UNAVAILABLE: Meaning(503, retryable=True),
    Code.SANDBOX_UNAVAILABLE: Meaning(503, retryable=True),
    Code.DEADLINE: Meaning(504),
    Code.LOCK_LOST: Meaning(409),
}


class ServiceError(Exception):
    """An operation failed.

    Attributes:
        code: Why.
        message: For the caller; holds no path outside the workspace, no uid and no secret.
        has_begun: Something that writes was begun before it: that nothing was done cannot be said any more.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.has_begun = False

    @property
    def meaning(self) -> Meaning:
        """Its status, and whether a retry may help."""
        return MEANINGS[self.code]

    def content(self) -> dict[str, object]:
        """`{"code", "message", "retryable"}`."""
        return {"code": self.code.value, "message": self.message, "retryable": self.meaning.retryable}
