"""Refusals of the control API: the one code -> status table, as problem+json (RFC 9457)."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from gateway.core.rules import RuleViolation
from gateway.errors import CrossfadeError

MEDIA_TYPE: Final = "application/problem+json"


class Code(StrEnum):
    """Why control refuses."""

    INVALID_VALUE = "invalid_value"
    TOKEN_REQUIRED = "token_required"  # noqa: S105 - a code, no secret
    ROLE_REQUIRED = "role_required"
    NOT_FOUND = "not_found"
    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_GROUP = "unknown_group"
    UNKNOWN_SCOPE = "unknown_scope"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - a code, no secret
    UNKNOWN_DRILL = "unknown_drill"
    UNKNOWN_TRIP = "unknown_trip"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    STALE_EPOCH = "stale_epoch"
    TOKEN_EXISTS = "token_exists"  # noqa: S105 - a code, no secret
    RULE_VIOLATION = "rule_violation"
    STAGE_HAS_NO_SHARE = "stage_has_no_share"
    GROUP_SHARE = "group_share"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    INTERNAL = "internal"
    NOT_YET_AVAILABLE = "not_yet_available"
    POLICY_UNAVAILABLE = "policy_unavailable"


STATUS: Final[dict[Code, int]] = {
    Code.INVALID_VALUE: 400,
    Code.TOKEN_REQUIRED: 401,
    Code.ROLE_REQUIRED: 403,
    Code.NOT_FOUND: 404,
    Code.UNKNOWN_OPERATION: 404,
    Code.UNKNOWN_GROUP: 404,
    Code.UNKNOWN_SCOPE: 404,
    Code.UNKNOWN_TOKEN: 404,
    Code.UNKNOWN_DRILL: 404,
    Code.UNKNOWN_TRIP: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.STALE_EPOCH: 409,
    Code.TOKEN_EXISTS: 409,
    Code.RULE_VIOLATION: 422,
    Code.STAGE_HAS_NO_SHARE: 422,
    Code.GROUP_SHARE: 422,
    Code.TOO_MANY_ATTEMPTS: 429,
    Code.INTERNAL: 500,
    Code.NOT_YET_AVAILABLE: 501,
    Code.POLICY_UNAVAILABLE: 503,
}


class Refused(CrossfadeError):  # noqa: N818 - it is an answer, not a fault of the program
    """Control refuses a request.

    Attributes:
        code: Why.
        message: What is wrong, with which object, and what to do.
        extra: Further members of the answer, such as `current`, `rule`, `legal`.
        headers: Further fields of the answer.
    """

    def __init__(self, code: Code, message: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:  # noqa: ANN401 - any JSON
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS[self.code]

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code.value,
            "detail": self.message,
            **self.extra,
        }


def invalid(message: str, errors: list[str] | None = None) -> Refused:
    """The request says something that cannot be meant."""
    return Refused(Code.INVALID_VALUE, message, errors=errors or [message])


def unavailable(why: str) -> Refused:
    """The policy cannot be asked or changed just now."""
    return Refused(Code.POLICY_UNAVAILABLE, why, headers={"Retry-After": "1"})


def from_rule(violation: RuleViolation) -> Refused:
    """What core refused."""
    return Refused(Code(violation.code), violation.message, rule=violation.rule, legal=violation.legal)
