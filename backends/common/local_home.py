"""The directory of one sandbox on this machine, as `local_provider` lays it out, and what is noted there."""

from __future__ import annotations

import json
import os
import secrets
import stat
import time
from pathlib import Path

from backends.common.errors import Code, ServiceError


def has_box(home: Path) -> bool:
    """Whether a sandbox is there, and not what is left of one.

    Raises:
        OSError: That cannot be said.
    """
    try:
        return stat.S_ISDIR((home / "box").lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def note_of_sandbox(home: Path) -> Path:
    """Where its user is noted."""
    return home / "meta" / "sandbox.json"


def noted_uid(home: Path) -> int | None:
    """The user of a sandbox, also of one that is gone; None where it has none, or nothing can be read."""
    try:
        uid = json.loads(note_of_sandbox(home).read_text())["uid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return uid if isinstance(uid, int) else None


def read_clone(home: Path) -> dict[str, str] | None:
    """What is noted of the clone that is in place: `url`, `config`, `tree`; None: there is none.

    Raises:
        ServiceError: `sandbox_unavailable`: the note is damaged.
    """
    try:
        content = json.loads((home / "meta" / "clone.json").read_text())
        return {part: str(content[part]) for part in ("url", "config", "tree")}
    except FileNotFoundError as exc:
        if not (home / "meta").is_dir() and has_box(home):
            # Not even the place of the notes is left: that it holds no clone, nobody can say.
            raise damaged() from exc
        return None
    except (ValueError, KeyError, TypeError) as exc:
        # What is there belongs to somebody, whatever the note has become: nothing is tidied up for that.
        raise damaged() from exc


def is_abandoned(path: Path, after_s: float) -> bool:
    """Whether whoever made it is gone."""
    try:
        return time.time() - path.lstat().st_ctime >= after_s
    except FileNotFoundError:
        return False


def damaged() -> ServiceError:
    """What is noted cannot be read."""
    return ServiceError(Code.SANDBOX_UNAVAILABLE, "a sandbox cannot be read: its notes are damaged")


def write_whole(path: Path, content: bytes, mode: int, *, is_synced: bool = False) -> None:
    """Writes a file of the service's: whoever reads it finds what was there before, or all of this.

    Args:
        path: Where.
        content: All of it.
        mode: Of the file.
        is_synced: It is on disk when this returns.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        if is_synced:
            # Else the name may be on disk before what it names: an empty file, after a power cut.
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if is_synced:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
