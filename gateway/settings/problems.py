"""What can be wrong with a file, and how it is told: every problem at once, each with its place and its remedy.

Owns the error type of this package. It must not know what any file means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from gateway.errors import CrossfadeError

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the root of a file to a value."""

SHOWN_CHARACTERS: Final = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: The file as the operator named it, or `environment`, or `command line`.
        line: Counted from 1; 0 where there is no line.
        path: Key path such as `operations.git.status.percent`; empty for the file as a whole.
        message: What is wrong and what would be right. Never a secret.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        line = f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"
        return _printable(line)  # names and keys of a file may hold what a terminal acts on, or a second line


class SettingsError(CrossfadeError):
    """A file, the environment or the command line cannot be used. Nothing of it was applied.

    Attributes:
        problems: At least one, in the order of the lines.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = sorted(set(problems), key=lambda p: (p.file, p.line, p.path, p.message))
        super().__init__("\n".join(map(str, self.problems)))


def show_path(path: KeyPath) -> str:
    """A key path as people write it: `sides.old.instances[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def show_value(value: object) -> str:
    """A scalar as the file could have it; of containers only the kind. Bounded in length."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f'"{_bounded(value)}"'
        case int() | float():
            return _bounded(str(value))
        case list():
            return "a list"
        case _:
            return "a mapping"


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """The remedy for a name that does not exist: the nearest known ones, else all of them."""
    near = get_close_matches(wrong, known, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"write one of {', '.join(known)}" if known else "remove it"


def _bounded(text: str) -> str:
    return _printable(text) if len(text) <= SHOWN_CHARACTERS else _printable(text[:SHOWN_CHARACTERS]) + "…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
