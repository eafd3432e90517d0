"""Which of a side's instances serves a request. Pure: the key, the loads and the random source are arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random


class Rendezvous:
    """Highest-random-weight hashing of a key over the *configured* instances.

    The same key has the same instance in every process. Adding an instance moves only the keys that it wins, removing
    one only the keys that it had. (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.)
    """

    __slots__ = ("_states",)

    def __init__(self, names: Sequence[str]) -> None:
        """Over instances of these names, distinct, at least one."""
        # The separator cannot occur in a configured address, so no name and key run into each other.
        self._states = [hashlib.sha256(name.encode() + b"\0") for name in names]

    def choose(self, key: str) -> int:
        """Index of the key's instance."""
        states = self._states
        if len(states) == 1:
            return 0
        raw = key.encode("utf-8", "surrogateescape")
        best, best_weight = 0, b""
        for index, state in enumerate(states):
            weighed = state.copy()
            weighed.update(raw)
            weight = weighed.digest()
            if weight > best_weight:
                best, best_weight = index, weight
        return best


def choose_less_loaded(candidates: Sequence[int], loads: Sequence[int], random: Random) -> int:
    """The less loaded of two candidates drawn at random; the first drawn on a tie.

    Args:
        candidates: Indices of instances, distinct, at least one.
        loads: Exchanges in flight of every instance, by index.
        random: Source of the draw.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = int(random.random() * count)
    second = int(random.random() * (count - 1))
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return other if loads[other] < loads[one] else one
