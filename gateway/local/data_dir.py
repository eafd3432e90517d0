"""The data directory: private, locked by one supervisor, and home of secrets that are made once."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Final

from gateway.local.errors import StartError

LOCK: Final = "lock"
_PRIVATE: Final = 0o700
_SECRET_BYTES: Final = 32
_GLANCE_S: Final = 0.5
"""Longer than `is_in_use` of another process, which looks by locking for a moment, can be in the way."""


class DataDir:
    """A data directory in use by this process alone.

    Attributes:
        path: Absolute.
    """

    def __init__(self, path: Path) -> None:
        """Makes it if need be, checks it and locks it; the lock ends with the process, however that ends.

        Raises:
            StartError: It cannot be used, or another supervisor uses it.
        """
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link before it is checked
        self._make_private()
        self._lock = self._take_lock()

    def secret(self, name: str, given: str | None = None, prefix: str = "") -> Path:
        """The file of a secret, made on first use, 0600.

        Args:
            name: Of the file.
            given: Replaces what the file holds.
            prefix: Of a secret that is made.

        Raises:
            StartError: The file cannot be used.
        """
        path = self.path / name
        try:
            if given is None and path.exists():
                mode = path.stat().st_mode
                if not stat.S_ISREG(mode):
                    raise StartError(f"{path} should hold a secret and is no file; remove it")
                if mode & 0o077:
                    raise StartError(f"{path} holds a secret and is open to others; chmod 600 it, or remove it")
                if path.read_text(encoding="ascii").strip():
                    return path
            self.write(name, given or prefix + secrets.token_urlsafe(_SECRET_BYTES))
        except OSError as exc:
            raise StartError(f"{path} cannot be used: {exc.strerror}") from exc
        except ValueError as exc:
            raise StartError(f"{path} should hold a secret and holds no text; remove it") from exc
        return path

    def write(self, name: str, content: str) -> Path:
        """Writes a file, 0600, in one step.

        Raises:
            OSError: The disk is full, say, or a directory stands in its place.
        """
        path = self.path / name
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        temporary.replace(path)
        return path

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def subdirectory(self, name: str) -> Path:
        """A private directory inside."""
        path = self.path / name
        path.mkdir(mode=_PRIVATE, exist_ok=True)
        return path

    def close(self) -> None:
        """Gives the lock up."""
        os.close(self._lock)

    def _make_private(self) -> None:
        path = self.path
        try:
            path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            status = path.lstat()
        except FileExistsError as exc:
            raise StartError(f"the data directory {path} is no directory; choose another with --data-dir") from exc
        except OSError as exc:
            raise StartError(
                f"the data directory {path} cannot be made: {exc.strerror}; choose another with --data-dir"
            ) from exc
        if stat.S_ISLNK(status.st_mode):
            raise StartError(f"the data directory {path} is a symbolic link; name the directory itself")
        if status.st_uid != os.geteuid():
            raise StartError(f"the data directory {path} belongs to another user; choose another with --data-dir")
        if status.st_mode & 0o077:
            raise StartError(f"the data directory {path} is open to others; chmod 700 {path}")
        if not os.access(path, os.W_OK | os.X_OK) or not status.st_mode & stat.S_IWUSR:
            raise StartError(f"the data directory {path} is not writable; chmod 700 {path}, or choose another")

    def _take_lock(self) -> int:
        path = self.path / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StartError(f"the data directory {self.path} is not writable: {exc.strerror}") from exc
        try:
            _lock(descriptor)
        except BlockingIOError as exc:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise StartError(
                f"crossfade runs on {self.path} already{f' (pid {holder})' if holder else ''}; "
                "stop it, or choose another --data-dir"
            ) from exc
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return descriptor


def _lock(descriptor: int) -> None:
    """Takes a lock.

    Raises:
        BlockingIOError: Somebody keeps it.
    """
    deadline = time.monotonic() + _GLANCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_GLANCE_S / 20)
        else:
            return


def is_in_use(path: Path) -> bool:
    """Whether a supervisor holds the lock of a data directory."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
