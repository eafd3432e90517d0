"""Files of a work tree, walked by directory descriptors so that no link leads out of it and nothing reaches `.git`.

Blocking; the provider calls it in a thread. All paths are relative to a root directory that the service made.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from backends.common.errors import Code, ServiceError
from backends.common.sandbox import Entry

LIST_LIMIT: Final = 10_000
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PART_LIMIT_BYTES: Final = 255
_PATH_LIMIT_BYTES: Final = 4000


def split_path(path: str) -> list[str]:
    """The parts of a path inside a work tree; none = its root.

    Raises:
        ServiceError: `path_refused`: absolute, with `..`, NUL or a backslash, too long, or something that is `.git` to
            some file system.
    """
    if path.startswith("/") or "\0" in path or "\\" in path:
        raise _refused("it must be relative to the repository, with / between its parts")
    if len(os.fsencode(path)) > _PATH_LIMIT_BYTES:
        # Git could not open what lies there.
        raise _refused(f"it is longer than {_PATH_LIMIT_BYTES} bytes")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise _refused("it leads out of the repository")
        if is_git_directory(part):
            raise _refused("git's own directory is not for files")
        if len(os.fsencode(part)) > _PART_LIMIT_BYTES:
            raise _refused("one of its parts is longer than 255 bytes")
    return parts


def is_git_directory(part: str) -> bool:
    """Whether some file system takes this name for `.git`: by case, 8.3 short names, streams, ignored code points.

    The rules are those of git's own `is_hfs_dotgit` and `is_ntfs_dotgit`, on the strict side.
    """
    visible = "".join(
        c for c in unicodedata.normalize("NFKC", part) if unicodedata.category(c) not in ("Cf", "Cc", "Mn")
    )
    name = visible.casefold().partition(":")[0].rstrip(" .")
    if name == ".git" or part.casefold().startswith(".git:"):
        return True
    stem, tilde, digits = name.partition("~")
    return bool(tilde) and stem in ("git", ".git") and digits.isdigit()


class Tree:
    """The work tree of one repository.

    Args:
        root: Its root directory.
        owner: User (and group) that files made here belong to, or None for the service's own.
        staging: A directory of the service on the same file system, where files are written before they appear.
    """

    def __init__(self, root: Path, owner: int | None, staging: Path) -> None:
        self._root = root
        self._owner = owner
        self._staging = staging

    def read(self, path: str, limit: int) -> tuple[bytes, int]:
        """The beginning of a file, and its size.

        Raises:
            ServiceError: `path_refused`, `not_found`, or `invalid_argument` for what is no file.
        """
        with self._parent(path) as (directory, name), _explained():
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ServiceError(Code.INVALID_ARGUMENT, "the path names no file")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    return file.read(limit), status.st_size
            finally:
                os.close(descriptor)

    def write(self, path: str, content: bytes) -> None:
        """Writes a file whole: readers see the old content or the new one.

        Raises:
            ServiceError: `path_refused`, `conflict` where a directory stands.
        """
        with self._parent(path, make=True) as (directory, name), _explained():
            mode = 0o644
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    raise ServiceError(Code.CONFLICT, "a directory stands there")
                if stat.S_ISLNK(status.st_mode):
                    raise _refused("a symbolic link stands there")
                mode = stat.S_IMODE(status.st_mode)
            # Written elsewhere: a status that runs meanwhile must not show it.
            temporary = self._staging / f"file-{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if self._owner is not None:
                        os.fchown(file.fileno(), self._owner, self._owner)
                    os.fchmod(file.fileno(), mode & 0o777)
                    file.write(content)
                os.replace(temporary, name, dst_dir_fd=directory)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def delete(self, path: str) -> None:
        """Removes a file or a symbolic link.

        Raises:
            ServiceError: `path_refused`, `not_found`, or `invalid_argument` for a directory.
        """
        with self._parent(path) as (directory, name), _explained():
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise ServiceError(Code.INVALID_ARGUMENT, "the path names a directory")
            os.unlink(name, dir_fd=directory)

    def entries(self, path: str) -> list[Entry]:
        """What lies in a directory, by name; git's own directory is left out.

        Raises:
            ServiceError: `path_refused`, `not_found`, or `too_large`.
        """
        parts = split_path(path)
        with self._walk(parts) as directory:
            found: list[Entry] = []
            for name in sorted(_names(directory)):
                with suppress(FileNotFoundError):
                    found.append(
                        _entry("/".join((*parts, name)), os.stat(name, dir_fd=directory, follow_symlinks=False))
                    )
            return found

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        parts = split_path(path)
        if not parts:
            raise ServiceError(Code.INVALID_ARGUMENT, "the path names the repository itself")
        with self._walk(parts[:-1], make=make) as directory:
            yield directory, parts[-1]

    @contextmanager
    def _walk(self, parts: list[str], *, make: bool = False) -> Iterator[int]:
        with _explained():
            directory = os.open(self._root, _DIRECTORY)
        try:
            for part in parts:
                with _explained():
                    below = self._enter(directory, part, make=make)
                os.close(directory)
                directory = below
            yield directory
        finally:
            os.close(directory)

    def _enter(self, directory: int, part: str, *, make: bool) -> int:
        try:
            return os.open(part, _DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            if not make:
                raise
        with suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=directory)
        below = os.open(part, _DIRECTORY, dir_fd=directory)
        if self._owner is not None:
            os.fchown(below, self._owner, self._owner)
        return below


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise ServiceError(Code.NOT_FOUND, "there is no such file") from exc
    except NotADirectoryError as exc:
        # With O_NOFOLLOW | O_DIRECTORY this is also what a symbolic link in the middle of a path gives.
        raise _refused("one of its parts is no directory") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _refused("a symbolic link stands there") from exc
        if exc.errno == errno.ENOTEMPTY or exc.errno == errno.EISDIR:
            raise ServiceError(Code.CONFLICT, "a directory stands there") from exc
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ServiceError(Code.TOO_LARGE, "there is no room for it") from exc
        raise


def _names(directory: int) -> list[str]:
    """Of what lies there, without git's own directory. Never more than may be listed: there may be millions."""
    names: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_git_directory(entry.name):
                continue
            if len(names) >= LIST_LIMIT:
                raise ServiceError(Code.TOO_LARGE, f"the directory holds more than {LIST_LIMIT} entries")
            names.append(entry.name)
    return names


def _entry(path: str, status: os.stat_result) -> Entry:
    # A name need not be text; git.status shows it the same way.
    path = os.fsencode(path).decode(errors="replace")
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, "dir", None)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, "symlink", None)
    return Entry(path, "file", status.st_size)


def _refused(why: str) -> ServiceError:
    return ServiceError(Code.PATH_REFUSED, f"the path is refused: {why}")
