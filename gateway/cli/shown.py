"""What a command shows: one document for programs, text for people, messages on standard error.

Owns the two outputs and the exit codes. Text that came from elsewhere never reaches a terminal with control characters.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import CrossfadeError

if TYPE_CHECKING:
    from rich.console import Console


_WIDE: Final = 200


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    FAILED = 1
    """Refused, failed, or control unreachable."""
    USAGE = 2
    NOT_ENOUGH_DATA = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """The outcome of a command.

    Attributes:
        document: For `--json`.
        text: Prints it for people.
        code: Exit code.
    """

    document: Mapping[str, Any]
    text: Callable[[Console], None]
    code: ExitCode = ExitCode.OK


class CommandError(CrossfadeError):
    """A command failed.

    Attributes:
        code: As in a problem document.
        message: For people; may have several lines.
        document: For `--json`.
    """

    def __init__(self, code: str, message: str, document: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.document = document or {"code": code, "detail": message}


def show(shown: Shown, *, as_json: bool) -> None:
    """Prints an outcome on standard output. Where that takes nothing, says so: what was done is done."""
    try:
        _print(shown, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        warn(f"crossfade: standard output takes nothing: {exc.strerror}")
        # Python would try again at exit, and fail again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(shown: Shown, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(shown.document, indent=2) + "\n")
        return
    from rich.console import Console

    # What goes to a file or another program is not cut to the width of a terminal that is not there.
    width = None if sys.stdout.isatty() else _WIDE
    shown.text(Console(highlight=False, markup=False, soft_wrap=True, width=width))


def show_error(error: CommandError, *, as_json: bool) -> None:
    """Prints why a command failed: on standard error, and as a document if one was asked for."""
    if as_json:
        sys.stdout.write(json.dumps(error.document, indent=2) + "\n")
    warn(f"crossfade: {plain(error.message, keep_lines=True)}")
    legal = error.document.get("legal")
    if legal:
        warn(f"legal would be: {plain(legal)}")


def warn(message: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(message + "\n")


def plain(value: object, *, keep_lines: bool = False) -> str:
    """A value as text that a terminal does not act on; `-` for what is unknown."""
    if value is None:
        return "-"
    return "".join(
        c if c.isprintable() or (keep_lines and c == "\n") else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )
