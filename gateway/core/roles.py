"""What an operator may do. Each role may do all that the lesser ones may."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class Role(IntEnum):
    """Ordered: viewer < operator < approver."""

    VIEWER = 1
    """Reads."""
    OPERATOR = 2
    """Moves shares, mirrors, kills, goes back, holds."""
    APPROVER = 3
    """Goes forward, skips, re-arms, applies files, gives tokens."""

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Role:
        """Reads a role's name.

        Raises:
            ValueError: There is no such role.
        """
        try:
            return cls[text.upper()]
        except KeyError:
            raise ValueError(f"role {text!r} is none of viewer, operator, approver") from None


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What may be known about a token.

    Attributes:
        name: Who holds it; stands in the audit.
        role: What it may do.
        created_at: Aware UTC.
        expires_at: Aware UTC, or None: never.
        digest_prefix: First characters of its SHA-256, to tell two apart.
    """

    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    digest_prefix: str
