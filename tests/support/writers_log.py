"""The log of who wrote in a workspace (`backends.common.fencing`), and what it would say if two had met there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ON = {"CROSSFADE_SANDBOX_WRITERS_LOG": "true"}
"""For a service that shall keep it."""


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        writer: Who.
        fence: Number of the hold.
        what: What begins; None = it ends.
    """

    writer: str
    fence: int
    what: str | None

    @classmethod
    def parse(cls, text: str) -> Line:
        """Reads one.

        Raises:
            ValueError: It is none.
        """
        writer, fence, *rest = text.split(" ")
        match rest:
            case ["begin", what]:
                return cls(writer, int(fence), what)
            case ["end"]:
                return cls(writer, int(fence), None)
            case _:
                raise ValueError(f"{text!r} is no line of a log of writers")


def read_log(path: Path) -> list[Line]:
    """Reads a log. What is written meanwhile may be cut in its last line, which is left out."""
    whole, _, _ = path.read_text().rpartition("\n")
    return [Line.parse(text) for text in whole.splitlines()]


def faults(lines: Iterable[Line]) -> list[str]:
    """What two writers at once, or one that was overtaken, have left in a log.

    A writer without an end was killed, and the next may begin. That it wrote on is seen by its end, which then follows
    the beginning of the next.
    """
    found: list[str] = []
    seen: set[str] = set()
    inside: str | None = None
    last = 0
    for line in lines:
        if line.fence < last:
            found.append(f"{line} comes after a hold of number {last}")
        last = max(last, line.fence)
        if line.what is None:
            if inside != line.writer:
                found.append(f"{line} is no end of {inside}, which is inside")
            inside = None
            continue
        if line.writer in seen:
            found.append(f"{line} begins again")
        seen.add(line.writer)
        inside = line.writer
    return found
