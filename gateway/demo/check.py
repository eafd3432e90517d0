"""What a performance claims, and whether it held."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """A claim and whether it held."""

    claim: str
    held: bool
    seen: str
