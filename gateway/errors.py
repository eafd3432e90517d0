"""The gateway's exceptions. Each carries data; what a client sees of one is decided in edge/problem.py."""

from __future__ import annotations

from enum import StrEnum

from gateway.core.model import ErrorCode


class CrossfadeError(Exception):
    """Base of every error that the gateway raises on purpose."""


class RequestRefusedError(CrossfadeError):
    """The gateway answers a request itself.

    Attributes:
        code: Why.
        message: What happened and what to do, safe to show to the client.
        close: Whether the connection must end with the answer (framing can no longer be trusted, body not read).
    """

    def __init__(self, code: ErrorCode, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.close = close


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
            `overloaded`.
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
