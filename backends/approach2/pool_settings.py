"""How many sandboxes there are, and how fast they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from backends.approach2.leaks import AGAIN_S

MINIMUM: Final = 3
"""Fewer would make the pool pointless."""
MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Of all instances together: they share what is warm.

    Attributes:
        warm: Kept waiting, at least.
        total: Of all, at most.
        creations_per_s: By one instance; None = what the provider allows.
        is_drained: What is warm is removed when an instance ends, instead of being left to the others and the next run.
        again_s: After which a sweep looks again at what it could not look at (`LeakSweep`).
    """

    warm: int = MINIMUM
    total: int = MOST
    creations_per_s: float | None = None
    is_drained: bool = False
    again_s: float = AGAIN_S

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> PoolSettings:
        """Reads `CROSSFADE_POOL_WARM`, `_TOTAL`, `_CREATE_PER_S` and `_DRAIN`.

        Raises:
            ValueError: One is no such number, fewer than 3 are to be warm, or more than there may be.
        """
        warm = int(env.get("CROSSFADE_POOL_WARM") or MINIMUM)
        total = int(env.get("CROSSFADE_POOL_TOTAL") or MOST)
        if not MINIMUM <= warm <= total:
            raise ValueError(f"CROSSFADE_POOL_WARM={warm} must be {MINIMUM} to CROSSFADE_POOL_TOTAL={total}")
        drain = env.get("CROSSFADE_POOL_DRAIN") or "false"
        if drain not in ("true", "false"):
            raise ValueError(f"CROSSFADE_POOL_DRAIN={drain} is none of true, false")
        return cls(warm, total, _rate(env.get("CROSSFADE_POOL_CREATE_PER_S")), drain == "true")


def _rate(text: str | None) -> float | None:
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate < inf:
        raise ValueError(f"CROSSFADE_POOL_CREATE_PER_S={text} is no number above 0")
    return rate
