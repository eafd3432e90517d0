"""A request as the connection to its client knows it.

It must not know what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.model import ErrorCode, Headers
from gateway.core.refusal import Refusal


@dataclass(slots=True)
class Arrival:
    """A request whose head is complete.

    Attributes:
        method: As sent.
        target: In origin-form.
        headers: All of them, lower-case names.
        peer: Address of the connection's other end, empty when it has none.
        scheme: `http` or `https`.
        version: `1.1` or `1.0`.
        length: Declared length of the body; None when it is chunked.
        has_body: Whether the client declared a body at all.
        upgrade: The protocols it asks to switch to, or None.
    """

    method: str
    target: bytes
    headers: Headers
    peer: str
    scheme: str
    version: str
    length: int | None
    has_body: bool
    upgrade: bytes | None = None


def too_large(limit: int) -> Refusal:
    """The refusal of a body over a limit."""
    return Refusal(ErrorCode.BODY_TOO_LARGE, f"the body is larger than {limit} bytes", close=True)
