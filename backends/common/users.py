"""Which user each local sandbox runs as, where the service is root: no two sandboxes of a machine share one.

A claim is a file named by the uid that holds the path of its sandbox; claims lie beside the sandbox roots, so that both
services see them. A claim whose sandbox is gone may be taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LARGE: Final = 2**31


@dataclass(frozen=True, slots=True)
class UidRange:
    """Users that belong to nobody else.

    Attributes:
        first: The lowest uid.
        count: How many follow each other.
    """

    first: int
    count: int


def range_here() -> UidRange:
    """The range of this machine. A container may map few users; then they are taken from what it has."""
    available = 2**32
    with contextlib.suppress(OSError, ValueError, IndexError):
        available = int(Path("/proc/self/uid_map").read_text().split()[2])
    return UidRange(1_000_000, 1_000_000) if available >= _LARGE else UidRange(20_000, 30_000)


class UserClaims:
    """Claims in one directory of root's own."""

    def __init__(self, directory: Path, uids: UidRange) -> None:
        self._directory = directory
        self._uids = uids

    @contextlib.contextmanager
    def claimed(self, sandbox: Path) -> Iterator[int]:
        """A uid for a sandbox that is made within the block; other services wait meanwhile.

        Raises:
            OSError: All are taken, or the claim cannot be written.
        """
        with self._turn():
            uid = self._free(sandbox)
            (self._directory / str(uid)).write_text(str(sandbox))
            yield uid

    def release(self, uid: int, sandbox: Path) -> None:
        """Gives a uid back, if it is this sandbox's. Not within `claimed`; blocking."""
        path = self._directory / str(uid)
        # Else another service could take the claim between the look and the removal, which would then be of its claim.
        with self._turn(), contextlib.suppress(FileNotFoundError):
            if path.read_text() == str(sandbox):
                path.unlink()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _free(self, sandbox: Path) -> int:
        start = int.from_bytes(hashlib.sha256(os.fsencode(sandbox)).digest()[:8], "big")
        for step in range(self._uids.count):
            uid = self._uids.first + (start + step) % self._uids.count
            if not self._is_taken(uid):
                return uid
        raise OSError(0, "every user for sandboxes is taken")

    def _is_taken(self, uid: int) -> bool:
        try:
            holder = (self._directory / str(uid)).read_text()
        except FileNotFoundError:
            return _has_name(uid)
        return os.path.lexists(holder)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
