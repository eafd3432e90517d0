"""Which reads are mirrored: by stage, kill, a sample of requests that is not the cohort, and what was answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from gateway.core.side_choice import key_hash

EVERY: Final = 1 << 64
"""The limit that every request is below."""


class Unmirrored(StrEnum):
    """Why a read was not mirrored, or not compared."""

    STAGE = "stage"
    """Its stage mirrors nothing."""
    KILL = "kill"
    NOT_SAMPLED = "not_sampled"
    STREAMING = "streaming"
    """The request's body was passed on as it came."""
    UPGRADE = "upgrade"
    UNCONFIRMED = "unconfirmed"
    """MCP headers named a read, and the body did not say so."""
    CONDITIONAL = "conditional"
    """Ranges and conditions are about one side's copy."""
    SECRET = "secret"  # noqa: S105 - a reason
    """It holds a secret, and the other side is not trusted with any."""
    UNSHARED = "unshared"
    """The other side cannot know what this one was told: the group says `writes: none`, and its keys have moved."""
    NOT_ACCEPTED = "not_accepted"
    """The serving side gave no whole answer, failed, or turned the request away."""
    CLIENT_GONE = "client_gone"
    TOO_LARGE = "too_large"
    QUEUE_FULL = "queue_full"
    """As many reads wait for their copy, or take as many bytes, as may."""
    UNSENDABLE = "unsendable"
    """The copy cannot be put on the wire."""
    TOO_LATE = "too_late"
    """It waited so long that the other side would not answer about the same state."""
    COMPARISON_FULL = "comparison_full"
    """More answers wait to be compared than may."""
    COMPARISON_LOST = "comparison_lost"
    """The process that compares was lost with it."""
    STOPPED = "stopped"
    """The worker ended."""


_CONDITIONAL: Final = frozenset(
    {b"range", b"if-range", b"if-none-match", b"if-match", b"if-modified-since", b"if-unmodified-since"}
)


_TURNED_AWAY: Final = frozenset({408, 429})
_SERVER_ERROR: Final = 500


def is_accepted(status: int) -> bool:
    """Whether the serving side took a request on: else there is nothing that the other one should agree with."""
    return status < _SERVER_ERROR and status not in _TURNED_AWAY


def is_conditional(name: bytes) -> bool:
    """Whether a field of a request makes the answer depend on what the client holds."""
    return name in _CONDITIONAL


def is_sampled(migration: str, request_id: bytes, limit: int) -> bool:
    """Whether a request is in the sample. Its salt is its own: the sample must not be the cohort."""
    return limit >= EVERY or key_hash(f"{migration}:mirror", request_id.decode("latin-1")) < limit


def read_copy_fields(text: str) -> tuple[tuple[bytes, bytes], ...]:
    """Reads header fields, `Name: value` a line.

    Raises:
        ValueError: A line is no field. The message holds no value.
    """
    fields = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.isascii() or not name.replace("-", "").isalnum() or not value.strip().isprintable():
            raise ValueError(f"line {number} is no header field; write Name: value")
        fields.append((name.lower().encode(), value.strip().encode("latin-1", "replace")))
    return tuple(fields)
