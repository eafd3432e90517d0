"""Failures that a side says in words: an answer whose status is no failure, with a code that is declared to be one.

Over MCP a call that failed is answered 200 with `isError`; over REST some codes below 500 may blame the side too.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

from gateway.core.compare.answers import Answer, error_code
from gateway.core.model import Headers

HEARD_BYTES: Final = 64 * 1024
"""Largest answer that is listened to: errors are short."""
_CLIENT_ERRORS: Final = range(400, 500)
_OK: Final = 200
_SIGN: Final = re.compile(rb'"isError"\s*:\s*true|"error"\s*:\s*\{')
"""Inside a JSON string its quotes would be escaped: where it is found, it is structure."""


class Listener:
    """Listens to one answer for a declared failure."""

    __slots__ = ("_codes", "_headers", "_is_mcp", "_pieces", "_size", "_status")

    def __init__(self, status: int, headers: Headers, codes: Set[str], *, is_mcp: bool) -> None:
        """Has heard nothing yet.

        Args:
            status: Of the answer.
            headers: As the side sent them.
            codes: That blame the side.
            is_mcp: Whether the answer carries an MCP message.
        """
        self._status = status
        self._headers = headers
        self._codes = codes
        self._is_mcp = is_mcp
        self._pieces: list[bytes] = []
        self._size = 0

    def hear(self, data: bytes) -> None:
        """Takes a piece of the body."""
        self._size += len(data)
        if self._size <= HEARD_BYTES:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def failure(self) -> str | None:
        """The code of the failure that was said, once the answer is complete; None: none."""
        if not self._pieces:
            return None
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        is_packed = any(name == b"content-encoding" for name, _ in self._headers)
        if self._is_mcp and self._status == _OK and not is_packed and _SIGN.search(body) is None:
            return None
        code = error_code(Answer(self._status, self._headers, body), is_mcp=self._is_mcp)
        return code if code in self._codes else None


def is_listened_to(status: int, *, is_mcp: bool) -> bool:
    """Whether an answer of this status may say a failure in words."""
    return status in _CLIENT_ERRORS or (is_mcp and status == _OK)
