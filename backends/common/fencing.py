"""What writes, under the fence of its hold: two writers in a workspace are impossible, whatever locks do.

Beside the repository lie `.crossfade/lock`, which a command holds by flock(2) as long as it runs, and
`.crossfade/fence`, the greatest number that came this way. A command with a lower number does nothing: its service has
lost the lock, and somebody else works here. The same few lines of shell do it on every provider; what the service does
itself in a directory of its own machine is done by `passing`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from backends.common.errors import Code, ServiceError
from backends.common.git_command import Command
from backends.common.locks import busy
from backends.common.sandbox import Finished

DIRECTORY: Final = ".crossfade"
FLOCK_S: Final = 10
"""Longest wait for a command of another hold, which is ending."""
_POLL_S: Final = 0.005
_BUSY: Final = 113
_LOST: Final = 114
"""Exit codes that git does not use."""

_GUARD: Final = f"""set -eu
place=$1 mine=$2; shift 2
umask 077
mkdir -p "$place"
exec 9>>"$place/lock"
flock -w {FLOCK_S} 9 || exit {_BUSY}
last=0
if [ -f "$place/fence" ]; then read -r last <"$place/fence" || last=0; fi
if [ "$mine" -lt "$last" ]; then exit {_LOST}; fi
if [ "$mine" -gt "$last" ]; then echo "$mine" >"$place/fence.new" && mv "$place/fence.new" "$place/fence"; fi
exec "$@"
"""


def guarded(command: Command, place: str, fence: int) -> Command:
    """A command that runs under a fence.

    Args:
        command: What to run.
        place: Path of `.crossfade`, in the sandbox.
        fence: Number of the hold.
    """
    return replace(command, argv=("sh", "-c", _GUARD, "sh", place, str(fence), *command.argv))


def check_guard(finished: Finished) -> Finished:
    """How a guarded command ended, if it ran.

    Raises:
        ServiceError: `lock_lost`: a later hold has come this way. `workspace_busy`: a command of another hold does not
            end. Nothing was done.
    """
    if finished.code == _LOST:
        raise _lost()
    if finished.code == _BUSY:
        raise busy()
    return finished


@contextmanager
def passing(box: Path, owner: int | None, fence: int) -> Iterator[None]:
    """Holds the lock of a directory on this machine while the block runs, as a guarded command does. Blocking.

    Args:
        box: Where `.crossfade` lies; whoever owns it may have planted links there.
        owner: User (and group) that it belongs to, or None for the service's own.
        fence: Number of the hold.

    Raises:
        ServiceError: As `check_guard`.
        OSError: The directory cannot be used.
    """
    plain = os.O_NOFOLLOW | os.O_CLOEXEC
    with _opened(box, os.O_RDONLY | os.O_DIRECTORY | plain) as outer:
        with suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700, dir_fd=outer)
        with _opened(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | plain, outer) as place:
            _give(place, owner)
            with _opened("lock", os.O_RDWR | os.O_CREAT | plain, place) as lock:
                _give(lock, owner)
                _take(lock)
                with _opened("fence", os.O_RDWR | os.O_CREAT | plain, place) as number:
                    _give(number, owner)
                    last = int(os.read(number, 32).strip() or b"0")
                    if fence < last:
                        raise _lost()
                    if fence > last:
                        # Digits never become fewer, so what is there is overwritten whole.
                        os.pwrite(number, b"%d\n" % fence, 0)
                # The lock falls with its descriptor.
                yield


@contextmanager
def _opened(path: str | Path, flags: int, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _give(descriptor: int, owner: int | None) -> None:
    if owner is not None and os.fstat(descriptor).st_uid != owner:
        os.fchown(descriptor, owner, owner)


def _take(lock: int) -> None:
    until = time.monotonic() + FLOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise busy() from None
            time.sleep(_POLL_S)
        else:
            return


def _lost() -> ServiceError:
    message = "the lock was lost to a later operation; look at the workspace before you try again"
    return ServiceError(Code.LOCK_LOST, message)
