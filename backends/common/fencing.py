"""What writes, under the fence of its hold: two writers in a workspace are impossible, whatever locks do.

Beside the repository lie `.crossfade/lock`, which a command holds by flock(2) as long as it runs, and
`.crossfade/fence`, the greatest number that came this way. A command with a lower number does nothing: its service has
lost the lock, and somebody else works here. The same few lines of shell do it on every provider; what the service does
itself in a directory of its own machine is done by `passing`.

Where the operator wants it, each of them says in `.crossfade/writers`, while it holds the lock, when it begins and when
it ends. It is there to be looked at, by people and by tests: nothing of the services reads it.

    <writer> <fence> begin <what>    16 hexadecimal digits that no other writer has, the number of its hold, a word
    <writer> <fence> end             missing where the writer was killed
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from backends.common.errors import Code, ServiceError
from backends.common.git_command import Command
from backends.common.locks import busy
from backends.common.sandbox import Finished

DIRECTORY: Final = ".crossfade"
WRITERS: Final = "writers"
FLOCK_S: Final = 10
"""Longest wait for a command of another hold, which is ending."""
_POLL_S: Final = 0.005
_BUSY: Final = 113
_LOST: Final = 114
_GONE: Final = 115
"""Exit codes that git does not use."""

# Only the last directory is made: a sandbox that is gone must not rise again as an empty one. A log that cannot be
# written keeps nobody from work. Where there is one the shell stays, with the lock, until it has said how it ended;
# whoever kills the group kills both. A pipe that was planted would hold up whoever opens it, with the lock in hand.
_GUARD: Final = f"""set -eu
place=$1 mine=$2 writer=$3 what=$4; shift 4
umask 077
plain() {{ [ ! -e "$1" ] || [ -f "$1" ]; }}
[ -d "$place" ] || mkdir "$place" 2>/dev/null || [ -d "$place" ] || exit {_GONE}
for file in lock fence fence.new; do plain "$place/$file" || exit {_GONE}; done
command exec 9>>"$place/lock" || exit {_GONE}
flock -w {FLOCK_S} 9 || exit {_BUSY}
last=0
if [ -f "$place/fence" ]; then read -r last <"$place/fence" || last=0; fi
if [ "$mine" -lt "$last" ]; then exit {_LOST}; fi
if [ "$mine" -gt "$last" ]; then
  {{ echo "$mine" >"$place/fence.new" && mv "$place/fence.new" "$place/fence"; }} || exit {_GONE}
fi
[ -n "$writer" ] || exec "$@"
say() {{ {{ plain "$place/{WRITERS}" && echo "$writer $mine $*" >>"$place/{WRITERS}"; }} 2>/dev/null || :; }}
say begin "$what"
code=0
"$@" || code=$?
say end
exit "$code"
"""


def guarded(command: Command, place: str, fence: int, *, is_logged: bool = False) -> Command:
    """A command that runs under a fence.

    Args:
        command: What to run.
        place: Path of `.crossfade`, in the sandbox.
        fence: Number of the hold.
        is_logged: It says in `.crossfade/writers` when it begins and ends.
    """
    writer = _new_writer() if is_logged else ""
    return replace(command, argv=("sh", "-c", _GUARD, "sh", place, str(fence), writer, command.what, *command.argv))


def check_guard(finished: Finished) -> Finished:
    """How a guarded command ended, if it ran.

    Raises:
        ServiceError: `lock_lost`: a later hold has come this way. `workspace_busy`: a command of another hold does not
            end. `sandbox_unavailable`: there is nothing to lock. Nothing was done.
    """
    if finished.code == _LOST:
        raise _lost()
    if finished.code == _BUSY:
        raise busy()
    if finished.code == _GONE:
        raise _unusable()
    return finished


@contextmanager
def passing(box: Path, owner: int | None, fence: int, logged_as: str | None = None) -> Iterator[None]:
    """Holds the lock of a directory on this machine while the block runs, as a guarded command does. Blocking.

    Args:
        box: Where `.crossfade` lies; whoever owns it may have planted links there.
        owner: User (and group) that it belongs to, or None for the service's own.
        fence: Number of the hold.
        logged_as: A word for what is done, which is then said in `.crossfade/writers`.

    Raises:
        ServiceError: `lock_lost`, `workspace_busy`, `sandbox_unavailable`, as `check_guard` has it.
        OSError: The directory cannot be used.
    """
    # O_NONBLOCK: whatever was planted there, opening it must not hold up the thread.
    plain = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with _opened(box, os.O_RDONLY | os.O_DIRECTORY | plain) as outer:
        with suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700, dir_fd=outer)
        with _opened(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | plain, outer) as place:
            _give(place, owner)
            with _opened("lock", os.O_RDWR | os.O_CREAT | plain, place) as lock:
                if not _is_plain(lock):
                    raise _unusable()
                _give(lock, owner)
                _take(lock)
                with _opened("fence", os.O_RDWR | os.O_CREAT | plain, place) as number:
                    if not _is_plain(number):
                        raise _unusable()
                    _give(number, owner)
                    try:
                        last = int(os.read(number, 32).strip() or b"0")
                    except ValueError:
                        # Whoever owns the box has written there.
                        raise _unusable() from None
                    if fence < last:
                        raise _lost()
                    if fence > last:
                        # Digits never become fewer, so what is there is overwritten whole.
                        os.pwrite(number, b"%d\n" % fence, 0)
                # The lock falls with its descriptor.
                with nullcontext() if logged_as is None else _logged(place, owner, fence, logged_as):
                    yield


@contextmanager
def _logged(place: int, owner: int | None, fence: int, what: str) -> Iterator[None]:
    writer = _new_writer()
    # O_NONBLOCK: a pipe that was planted there would hold up the thread.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with ExitStack() as opened:
        log: int | None = None

        def say(text: str) -> None:
            if log is not None:
                with suppress(OSError):
                    os.write(log, f"{writer} {fence} {text}\n".encode())

        # A log that cannot be written keeps nobody from work.
        with suppress(OSError):
            descriptor = opened.enter_context(_opened(WRITERS, flags, place))
            if _is_plain(descriptor):
                _give(descriptor, owner)
                log = descriptor
        say(f"begin {what}")
        try:
            yield
        finally:
            say("end")


@contextmanager
def _opened(path: str | Path, flags: int, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_plain(descriptor: int) -> bool:
    """Whether it is a file that has no other name: what the owner of the box links there may be somebody else's."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _give(descriptor: int, owner: int | None) -> None:
    """Gives away what the service has just made, or what it made when it was killed before it could give it away."""
    if owner is None:
        return
    status = os.fstat(descriptor)
    # Files are given away before anything is written: one that holds something was not made here.
    is_new = status.st_uid == os.geteuid() and (stat.S_ISDIR(status.st_mode) or status.st_size == 0)
    if is_new and status.st_uid != owner:
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


def _new_writer() -> str:
    return secrets.token_hex(8)


def _unusable() -> ServiceError:
    return ServiceError(Code.SANDBOX_UNAVAILABLE, "the sandbox is gone, or nothing can be written there")


def _lost() -> ServiceError:
    message = "the lock was lost to a later operation; look at the workspace before you try again"
    return ServiceError(Code.LOCK_LOST, message)
