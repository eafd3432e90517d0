"""A difference, and the differences of one pair: each place and kind once, as many as are named, none with a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

MOST: Final = 100
"""Places and kinds that are named; beyond it the rest is counted."""


class Kind(StrEnum):
    """How two parts differ."""

    MISSING = "missing"
    """The other side lacks it."""
    EXTRA = "extra"
    """Only the other side has it."""
    TYPE = "type"
    VALUE = "value"
    ORDER = "order"
    """The same items in another order."""
    LENGTH = "length"
    STATUS = "status"
    HEADER = "header"
    BODY = "body"
    """Bytes that are not walked."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two answers differ. Holds no value of either.

    Attributes:
        path: `$.commits[*].date`; members whose names may be data read `{}`.
        kind: How.
        left: Shape of the serving side's part, or empty.
        right: Shape of the other side's.
        left_digest: HMAC of it: equal digests stand for equal values.
        right_digest: Likewise.
        is_alike: Of two values: whether they would pass as `shapes.is_alike` has it. None: older evidence, not known.
    """

    path: str
    kind: Kind
    left: str = ""
    right: str = ""
    left_digest: str = ""
    right_digest: str = ""
    is_alike: bool | None = None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        said = {
            "path": self.path,
            "kind": self.kind.value,
            "left": self.left,
            "right": self.right,
            "left_digest": self.left_digest,
            "right_digest": self.right_digest,
        }
        return said if self.is_alike is None else {**said, "is_alike": self.is_alike}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Difference:
        """Reads what `document` wrote."""
        return cls(**{**document, "kind": Kind(document["kind"])})


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the notes of a walk were."""

    changes: int
    seen: int
    unnamed: int


class Differences:
    """The differences of a pair.

    Attributes:
        seen: Every time that something differed, named or not.
        unnamed: Those whose place and kind are not among the first `MOST`.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, Kind], Difference] = {}
        self._undo: list[tuple[tuple[str, Kind], Difference | None]] = []
        self.seen = 0
        self.unnamed = 0

    def __iter__(self) -> Iterator[Difference]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def is_wanted(self, path: str, kind: Kind, *, is_alike: bool | None) -> bool:
        """Counts a difference; whether it says something new: its place and kind, or that values are not even alike."""
        self.seen += 1
        known = self._found.get((path, kind))
        if known is not None:
            return known.is_alike is True and is_alike is False
        if len(self._found) >= MOST:
            self.unnamed += 1
            return False
        return True

    def put(self, difference: Difference) -> None:
        """Keeps a difference that is wanted."""
        place = (difference.path, difference.kind)
        self._undo.append((place, self._found.get(place)))
        self._found[place] = difference

    def mark(self) -> Mark:
        """For `back_to`."""
        return Mark(len(self._undo), self.seen, self.unnamed)

    def back_to(self, mark: Mark) -> None:
        """Forgets what was noted since: it has turned out to be something else."""
        while len(self._undo) > mark.changes:
            place, before = self._undo.pop()
            if before is None:
                del self._found[place]
            else:
                self._found[place] = before
        self.seen, self.unnamed = mark.seen, mark.unnamed
