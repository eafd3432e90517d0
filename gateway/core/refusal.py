"""The one exception of core: a request that the gateway answers itself."""

from __future__ import annotations

from typing import Final

from gateway.core.model import ErrorCode

JSONRPC_PARSE_ERROR: Final = -32700
JSONRPC_INVALID_REQUEST: Final = -32600
JSONRPC_INTERNAL_ERROR: Final = -32603


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault of the program
    """A request is answered by the gateway and reaches no side.

    Attributes:
        code: Why; its status is in edge/problem.py.
        message: What happened and what to do, safe to show to the client.
        close: Whether the connection ends with the answer, because the rest of it cannot be read or trusted.
        rpc_code: JSON-RPC error code on the MCP path, or None for the one that goes with the status.
        allow: Methods for the `Allow` field of a 405.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        close: bool = False,
        rpc_code: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.close = close
        self.rpc_code = rpc_code
        self.allow = allow
