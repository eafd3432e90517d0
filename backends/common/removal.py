"""Removes directories of any depth, following no link.

A repository may nest directories deeper than `shutil.rmtree` recurses or a process may hold descriptors. So what is
found deep down is moved up beside the first level before it is looked into. Blocking.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Removes a directory with all that is in it, a file or a link; what cannot be removed stays."""
    try:
        top = os.open(path, _DIRECTORY)
    except OSError:
        with suppress(OSError):
            path.unlink()
        return
    try:
        # No name of the repository begins like this.
        prefix = f"removed-{secrets.token_hex(8)}-"
        moved = 0
        waiting = _empty(top)
        while waiting:
            name = waiting.pop()
            with suppress(OSError):
                below = os.open(name, _DIRECTORY, dir_fd=top)
                try:
                    for deeper in _empty(below):
                        with suppress(OSError):
                            os.rename(deeper, f"{prefix}{moved}", src_dir_fd=below, dst_dir_fd=top)
                            waiting.append(f"{prefix}{moved}")
                        moved += 1
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with suppress(OSError):
        path.rmdir()


def _empty(directory: int) -> list[str]:
    """Removes what is no directory; the names of what is one."""
    directories = []
    with os.scandir(directory) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            directories.append(entry.name)
        else:
            with suppress(OSError):
                os.unlink(entry.name, dir_fd=directory)
    return directories
