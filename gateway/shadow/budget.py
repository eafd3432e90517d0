"""What the shadow holds, in bytes: one budget for everything that it keeps alive, asked before anything is kept.

Three levels, so that what is under way comes to its end whatever else comes: new reads may fill most of it, answers to
copies more, second looks all.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from gateway.core.model import Headers
from gateway.ports import UpstreamRequest

OVERHEAD_BYTES: Final = 2048
"""What a read takes besides the bytes of its requests and answers, roughly."""
_FIELD_BYTES: Final = 160
"""A header field is a tuple of two byte strings."""


class Level(Enum):
    """How much of the budget may be in use for something to be taken; in percent."""

    NEW = 70
    """A read that is served, and its place in the queue."""
    COPY = 90
    """The answer to a copy."""
    SECOND_LOOK = 100
    """What is read again, once or twice."""


class Budget:
    """Bytes that are held.

    Attributes:
        limit: Most that may be.
        held: That are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._ceilings = {level: limit * level.value // 100 for level in Level}

    def take(self, size: int, level: Level) -> bool:
        """Takes bytes; False, and nothing is taken: there is no room."""
        held = self.held + size
        if held > self._ceilings[level]:
            return False
        self.held = held
        return True


class Holding:
    """What is held for one read. Belongs to one owner at a time, who releases it or passes it on.

    Attributes:
        size: Bytes.
        level: Of what is taken from now on.
    """

    __slots__ = ("_budget", "level", "size")

    def __init__(self, budget: Budget, level: Level) -> None:
        self._budget = budget
        self.level = level
        self.size = 0

    def grow(self, size: int) -> bool:
        """Holds so many bytes more; False: there is no room, and it holds what it did."""
        if not self._budget.take(size, self.level):
            return False
        self.size += size
        return True

    def become(self, size: int) -> None:
        """Holds something else instead, made of what was held: there is no question of room."""
        self._budget.held += size - self.size
        self.size = size

    def release(self) -> None:
        """Holds nothing any more."""
        self.become(0)


def size_of_fields(headers: Headers) -> int:
    """Bytes that header fields take."""
    return sum([len(name) + len(value) for name, value in headers]) + _FIELD_BYTES * len(headers)


def size_of_request(request: UpstreamRequest) -> int:
    """Bytes that a request takes, with what is kept about it."""
    body = len(request.body) if isinstance(request.body, bytes) else 0
    return body + len(request.target) + size_of_fields(request.headers) + OVERHEAD_BYTES
