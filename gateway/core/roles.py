"""What an operator may do. Each role may do all that the lesser ones may."""

from __future__ import annotations

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
