"""What reading again says about a difference, and what it says about those that are not read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from gateway.core.compare.tree import Difference, Kind

Place = tuple[str, Kind]
"""A path, and how it differs there."""

_STATUS: Final = "status"


def places(differences: Iterable[Difference]) -> frozenset[Place]:
    """Where answers differ."""
    return frozenset((difference.path, difference.kind) for difference in differences)


def unshaken(found: frozenset[Place], own: frozenset[Place]) -> frozenset[Place]:
    """The places that two answers of the serving side itself leave in no doubt.

    Where it disagrees with itself, that the other side disagrees with it says nothing: neither there, nor below a part
    whose items or members have changed meanwhile; and nowhere, where even the status has.

    Args:
        found: Where the sides differ.
        own: Where two answers of the serving side do, the other side asked between them.
    """
    if any(path == _STATUS for path, _ in own):
        return frozenset()
    moved = {path for path, kind in own if kind is not Kind.VALUE}
    shaken = {path for path, _ in own}
    return frozenset(
        (path, kind) for path, kind in found if path not in shaken and not any(_is_below(path, top) for top in moved)
    )


def _is_below(path: str, top: str) -> bool:
    return path.startswith(top) and path[len(top) : len(top) + 1] in ("", ".", "[")


class Overflow:
    """Suspicions beyond those that can be read again: the ones of their operation that are read stand for them.

    Which ones are read is decided by when they came, not by what they are; so they are a fair sample. None is left out
    of the count: agreement would be too good by whatever is left out, since no match ever is.
    """

    def __init__(self) -> None:
        self._sampled: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()

    def sample(self, operation: str) -> None:
        """A suspicion is read again."""
        self._sampled[operation] += 1

    def take(self, operation: str) -> bool:
        """A suspicion is not read again. False: nothing of its operation is, so it has to be."""
        if not self._sampled[operation]:
            return False
        self._unread[operation] += 1
        return True

    def settle(self, operation: str) -> int:
        """One that was read again has come to its verdict; returns for how many it is, itself included."""
        share = self._unread[operation] // self._sampled[operation]
        self._unread[operation] -= share
        self._sampled[operation] -= 1
        return 1 + share
