"""The gateway's own answers: the one error -> status table, and their two shapes.

REST clients get `application/problem+json` (RFC 9457), clients of the MCP path a JSON-RPC error with the same status.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from gateway.core.model import ErrorCode, Headers, Side
from gateway.core.refusal import JSONRPC_INTERNAL_ERROR, JSONRPC_INVALID_REQUEST, Refusal
from gateway.errors import UpstreamError

STATUS: Final[dict[ErrorCode, int]] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.KEY_REQUIRED: 400,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.URI_TOO_LONG: 414,
    ErrorCode.HEADERS_TOO_LARGE: 431,
    ErrorCode.INTERNAL: 500,
    ErrorCode.NOT_IMPLEMENTED: 501,
    ErrorCode.UPSTREAM_REFUSED: 502,
    ErrorCode.UPSTREAM_RESET: 502,
    ErrorCode.UPSTREAM_INVALID: 502,
    ErrorCode.NO_UPSTREAM: 503,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.POLICY_UNAVAILABLE: 503,
    ErrorCode.LOG_UNAVAILABLE: 503,
    ErrorCode.KEY_PENDING: 503,
    ErrorCode.UPSTREAM_TIMEOUT: 504,
}

SERVER_ERROR: Final = 500
_NOT_RETRYABLE_5XX: Final = frozenset({ErrorCode.INTERNAL, ErrorCode.NOT_IMPLEMENTED})
_RETRY_AFTER_S: Final = b"1"


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer of the gateway's own.

    Attributes:
        status: HTTP status.
        headers: Without framing fields.
        body: JSON.
    """

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class RpcShape:
    """Asks for the JSON-RPC shape.

    Attributes:
        request_id: The `id` of the message, or None when it is unknown.
        code: JSON-RPC error code, or None for the one that goes with the status.
    """

    request_id: str | int | None = None
    code: int | None = None


def problem(
    code: ErrorCode,
    message: str,
    *,
    rpc: RpcShape | None = None,
    allow: str | None = None,
    retryable: bool | None = None,
) -> Problem:
    """Builds an answer.

    Args:
        code: Why.
        message: What happened and what to do.
        rpc: Set on the MCP path.
        allow: Methods for the `Allow` field of a 405.
        retryable: Whether the same request may succeed later; by default the 5xx codes that name a passing fault.
    """
    status = STATUS[code]
    if retryable is None:
        retryable = status >= HTTPStatus.INTERNAL_SERVER_ERROR and code not in _NOT_RETRYABLE_5XX
    content: dict[str, object]
    if rpc is None:
        media_type = b"application/problem+json"
        content = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": message,
            "code": code.value,
            "message": message,
            "retryable": retryable,
        }
    else:
        media_type = b"application/json"
        by_status = JSONRPC_INTERNAL_ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else JSONRPC_INVALID_REQUEST
        content = {
            "jsonrpc": "2.0",
            "id": rpc.request_id,
            "error": {
                "code": rpc.code or by_status,
                "message": message,
                "data": {"code": code.value, "retryable": retryable},
            },
        }
    headers: Headers = [(b"content-type", media_type), (b"cache-control", b"no-store")]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", _RETRY_AFTER_S))
    if allow is not None:
        headers.append((b"allow", allow.encode()))
    return Problem(status, headers, json.dumps(content, separators=(",", ":")).encode())


def problem_of_refusal(refusal: Refusal, rpc: RpcShape | None = None) -> Problem:
    """The answer to a request that is not carried.

    Args:
        refusal: Why.
        rpc: Set on the MCP path.
    """
    if rpc is not None and refusal.rpc_code is not None:
        rpc = RpcShape(rpc.request_id, refusal.rpc_code)
    return problem(refusal.code, refusal.message, rpc=rpc, allow=refusal.allow)


def problem_of_fault(error: UpstreamError, side: Side | None, rpc: RpcShape | None, *, is_write: bool) -> Problem:
    """The answer where a side gave none.

    Args:
        error: What ended the exchange.
        side: Who was asked.
        rpc: Set on the MCP path.
        is_write: Whether the request is a write, as far as is known.
    """
    if STATUS[error.code] < SERVER_ERROR:
        return problem(error.code, "the request did not arrive whole and in time", rpc=rpc)
    message = f"the {side} side gave no usable answer ({error.code}, phase {error.phase})"
    # Whoever sent a write that may have arrived cannot know whether it took effect.
    retryable = False if is_write and error.sent else None
    return problem(error.code, message, rpc=rpc, retryable=retryable)
