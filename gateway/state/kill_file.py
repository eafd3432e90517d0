"""The file `<data-dir>/KILL`: a kill that needs no Redis, no control and no network."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.kills import scope_exists
from gateway.core.model import SCOPE_ALL, Definition, Scope

NAME: Final = "KILL"
_LIMIT_BYTES: Final = 4096
_REASON_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class KillNote:
    """What the file says.

    Attributes:
        scope: Its first line; `all` when that is empty, unreadable or names nothing that exists: somebody meant a kill.
        reason: The rest, or where it came from.
    """

    scope: Scope
    reason: str


def read_kill_file(data_dir: Path, definition: Definition) -> KillNote | None:
    """The kill that the file asks for, or None when there is no file. Blocks: call it off the event loop."""
    path = data_dir / NAME
    try:
        # Never waits for a writer of a pipe, never follows a link out of the directory.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return KillNote(SCOPE_ALL, f"file {NAME}, unreadable")
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        content = os.read(descriptor, _LIMIT_BYTES) if regular else b""
    except OSError:
        content = b""
    finally:
        os.close(descriptor)
    first, _, rest = content.decode(errors="replace").partition("\n")
    reason = " ".join(rest.split())[:_REASON_LIMIT] or f"file {NAME}"
    try:
        scope = Scope.parse(first.strip() or str(SCOPE_ALL))
    except ValueError:
        return KillNote(SCOPE_ALL, reason)
    return KillNote(scope if scope_exists(definition, scope) else SCOPE_ALL, reason)
