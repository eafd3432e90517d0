"""The gateway's exceptions. Each carries data; what a client sees of one is decided in edge/problem.py.

Refusals that core decides are `gateway.core.refusal.Refusal`.
"""

from __future__ import annotations

from enum import StrEnum

from gateway.core.model import ErrorCode


class CrossfadeError(Exception):
    """Base of every error that the gateway raises on purpose."""


class Phase(StrEnum):
    """Where in an exchange something happened."""

    SELECT = "select"
    """Choosing an instance, waiting for a free connection."""
    CONNECT = "connect"
    SEND = "send"
    FIRST_BYTE = "first_byte"
    BODY = "body"
    TOTAL = "total"


class UpstreamError(CrossfadeError):
    """An exchange with a side failed.

    Attributes:
        code: One of `upstream_refused`, `upstream_reset`, `upstream_invalid`, `upstream_timeout`, `no_upstream`,
            `overloaded`; `request_timeout` and `bad_request` where the client held the exchange up or broke it.
        upstream: Name of the instance, or of the side when none was chosen.
        phase: Where.
        detail: What was seen, for logs; never request data.
        sent: Whether a byte of the request may have reached the side.
    """

    def __init__(self, code: ErrorCode, *, upstream: str, phase: Phase, detail: str, sent: bool) -> None:
        super().__init__(f"{code} {upstream} in phase {phase}: {detail}")
        self.code = code
        self.upstream = upstream
        self.phase = phase
        self.detail = detail
        self.sent = sent


class CertificateError(CrossfadeError):
    """The data port's certificate or key cannot be used."""


class RevokedError(CrossfadeError):
    """A request was not sent: while it waited for a connection, the policy took it away from this side."""


class StaleEpochError(CrossfadeError):
    """Somebody changed the policy meanwhile.

    Attributes:
        current: The stored epoch.
    """

    def __init__(self, current: int) -> None:
        super().__init__(f"the policy is at epoch {current} by now")
        self.current = current


class PolicyAbsentError(CrossfadeError):
    """Redis holds no policy of this migration."""


class RestoreRefusedError(CrossfadeError):
    """There is nothing to put back, or nothing that may be."""


class TokenExistsError(CrossfadeError):
    """A token of that name exists."""
