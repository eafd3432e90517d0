"""Sandboxes on this machine: a directory, and child processes under resource limits.

For one trusted machine, not an isolation boundary: what runs here shares the kernel, the network and, unless the
service runs as root, the user. As root each sandbox has a user of its own, who cannot read another one's files.

    <root>/<name>/           0711  the service's
      meta/                  0700  the service's: uid, URL that was cloned, git configuration as cloned
      gitconfig              0644  our global configuration for git
      box/                   0700  the sandbox's: home/, repo/, clones under way
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from backends.common import exec_wrapper
from backends.common.errors import Code, ServiceError
from backends.common.git_command import Command, global_config
from backends.common.sandbox import Entry, Finished
from backends.common.tree import Tree

T = TypeVar("T")

_NAME: Final = re.compile(r"[a-z0-9]{8,64}")
_STDERR_BYTES: Final = 8192
_READ_BYTES: Final = 65_536
_UID_SPAN: Final = 100_000
_STAYS: Final = -1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use.

    Attributes:
        memory_bytes: Address space.
        file_bytes: Size of a file that it writes.
        processes: Processes of the sandbox's user; counted only where it has one of its own.
    """

    memory_bytes: int = 4 << 30
    file_bytes: int = 2 << 30
    processes: int = 128


class LocalProvider:
    """Implements `SandboxProvider` below one directory."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        """Makes the directory; it must be the service's own.

        Raises:
            OSError: It cannot be made, or belongs to somebody else.
        """
        self._root = root
        self._limits = limits or Limits()
        self._sandboxes: dict[str, LocalSandbox] = {}
        self._is_root = os.geteuid() == 0
        _own_directory(root, 0o711 if self._is_root else 0o700)
        self._next_uid = _first_uid(root) if self._is_root else None

    async def create(self, name: str) -> LocalSandbox:
        """A fresh sandbox.

        Raises:
            ServiceError: `sandbox_unavailable`: the machine refuses.
        """
        try:
            sandbox = await asyncio.to_thread(self._create, name)
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"no sandbox could be made: {exc.strerror}") from exc
        self._sandboxes[name] = sandbox
        return sandbox

    async def find(self, name: str) -> LocalSandbox | None:
        """A sandbox that was made before, also by an earlier run, or None."""
        known = self._sandboxes.get(name)
        if known is None and _NAME.fullmatch(name):
            known = await asyncio.to_thread(self._open, name)
            if known is not None:
                known = self._sandboxes.setdefault(name, known)
        return known

    async def destroy(self, name: str) -> None:
        """Removes a sandbox with everything in it."""
        self._sandboxes.pop(name, None)
        if _NAME.fullmatch(name):
            await asyncio.to_thread(shutil.rmtree, self._root / name, ignore_errors=True)

    async def names(self) -> list[str]:
        """Every sandbox there is."""
        return sorted(path.name for path in self._root.iterdir() if _NAME.fullmatch(path.name))

    def _create(self, name: str) -> LocalSandbox:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a sandbox")
        uid = self._take_uid()
        # Complete under another name first: a service that is killed in between leaves no half of a sandbox.
        building = self._root / f".{name}-{secrets.token_hex(4)}"
        building.mkdir(mode=0o700)
        (building / "meta").mkdir(mode=0o700)
        (building / "meta" / "sandbox.json").write_text(json.dumps({"uid": uid}))
        _write(building / "gitconfig", global_config([]).encode(), 0o644)
        for directory in (building / "box", building / "box" / "home"):
            directory.mkdir(mode=0o700)
            if uid is not None:
                os.chown(directory, uid, uid)
        building.chmod(0o711 if self._is_root else 0o700)
        building.rename(self._root / name)
        return LocalSandbox(name, self._root / name, uid, self._limits)

    def _open(self, name: str) -> LocalSandbox | None:
        home = self._root / name
        try:
            uid = json.loads((home / "meta" / "sandbox.json").read_text())["uid"]
        except (OSError, ValueError, KeyError):
            return None
        return LocalSandbox(name, home, uid, self._limits)

    def _take_uid(self) -> int | None:
        if self._next_uid is None:
            return None
        used = {path.stat().st_uid for path in self._root.glob("*/box")}
        while self._next_uid in used:
            self._next_uid += 1
        self._next_uid += 1
        return self._next_uid - 1


@dataclass(eq=False)
class LocalSandbox:
    """Implements `Sandbox`.

    Attributes:
        name: Names it towards its provider.
    """

    name: str
    _home: Path
    _uid: int | None
    _limits: Limits
    _visitors: int = 0
    _gate: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def has_repository(self) -> bool:
        """Whether something was cloned here."""
        return (self._home / "meta" / "clone.json").exists()

    @property
    def _box(self) -> Path:
        return self._home / "box"

    @property
    def _tree(self) -> Tree:
        return Tree(self._box / "repo", self._uid)

    # --- commands --------------------------------------------------------------------------------------------------

    async def run(self, command: Command, *, within_s: float, keep_bytes: int, outside: bool = False) -> Finished:
        """See `Sandbox.run`.

        Raises:
            ServiceError: `deadline`, or `sandbox_unavailable`: the command could not be started.
        """
        if outside:
            return await self._run(command, self._box, within_s, keep_bytes)
        async with self._inside():
            return await self._run(command, self._box / "repo", within_s, keep_bytes)

    async def _run(self, command: Command, directory: Path, within_s: float, keep_bytes: int) -> Finished:
        limits = self._limits
        uid = _STAYS if self._uid is None else self._uid
        numbers = (uid, math.ceil(within_s) + 5, limits.memory_bytes, limits.file_bytes, limits.processes)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(Path(exec_wrapper.__file__)), *map(str, numbers)),
                *(_program(command.argv[0]), *command.argv[1:]),
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._box / "home"), **command.env},
                stdin=PIPE if command.stdin else DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"no command can be run: {exc.strerror}") from exc
        try:
            async with asyncio.timeout(within_s):
                return await _converse(process, command.stdin, keep_bytes)
        except TimeoutError as exc:
            raise ServiceError(Code.DEADLINE, f"the command did not end within {within_s:g} s") from exc
        finally:
            # Whatever ended the wait, nothing of the command outlives it: whoever gets the workspace next must not
            # meet a git that still writes.
            await asyncio.shield(_end(process))

    # --- the repository --------------------------------------------------------------------------------------------

    async def settle_clone(self, name: str, remote_url: str) -> None:
        """See `Sandbox.settle_clone`."""
        async with self._alone():
            await asyncio.to_thread(self._settle_clone, name, remote_url)

    def _settle_clone(self, name: str, remote_url: str) -> None:
        config = (self._box / name / ".git" / "config").read_bytes()
        content = {"url": remote_url, "config": config.decode(errors="surrogateescape")}
        before = self._box / f"gone-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            (self._box / "repo").rename(before)
        (self._box / name).rename(self._box / "repo")
        _write(self._home / "meta" / "clone.json", json.dumps(content).encode(), 0o600)
        shutil.rmtree(before, ignore_errors=True)

    async def discard_clone(self, name: str) -> None:
        """See `Sandbox.discard_clone`."""
        await asyncio.to_thread(shutil.rmtree, self._box / name, ignore_errors=True)

    async def prepare(self) -> None:
        """See `Sandbox.prepare`."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        expected = self._clone()["config"].encode(errors="surrogateescape")
        # Only plain directories and files: a link planted here would make us read or write elsewhere.
        repository = os.open(self._box / "repo", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            directory = os.open(".git", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=repository)
        except OSError as exc:
            raise ServiceError(Code.INTERNAL, "the repository is damaged; clone it again") from exc
        finally:
            os.close(repository)
        try:
            if _read_plain(directory, "config", len(expected) + 1) != expected:
                self._rewrite_config(directory, expected)
        finally:
            os.close(directory)

    def _rewrite_config(self, directory: int, content: bytes) -> None:
        temporary = f"config.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
            if self._uid is not None:
                os.fchown(file.fileno(), self._uid, self._uid)
            file.write(content)
        os.replace(temporary, "config", src_dir_fd=directory, dst_dir_fd=directory)

    def allow_local_remote(self, path: str) -> str:
        """See `Sandbox.allow_local_remote`."""
        if not path:
            return str(self._home / "gitconfig")
        file = self._home / f"gitconfig-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
        if not file.exists():
            _write(file, global_config([path, f"{path}/.git"]).encode(), 0o644)
        return str(file)

    async def remote_url(self) -> str:
        """See `Sandbox.remote_url`."""
        return str((await asyncio.to_thread(self._clone))["url"])

    def _clone(self) -> dict[str, str]:
        try:
            content: dict[str, str] = json.loads((self._home / "meta" / "clone.json").read_text())
        except (OSError, ValueError) as exc:
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned here; clone first") from exc
        return content

    # --- files -----------------------------------------------------------------------------------------------------

    async def read_file(self, path: str, limit: int) -> tuple[bytes, int]:
        """See `Sandbox.read_file`."""
        async with self._inside():
            return await asyncio.to_thread(self._tree.read, path, limit)

    async def write_file(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        async with self._inside():
            await asyncio.to_thread(self._tree.write, path, content)

    async def delete_file(self, path: str) -> None:
        """See `Sandbox.delete_file`."""
        async with self._inside():
            await asyncio.to_thread(self._tree.delete, path)

    async def list_directory(self, path: str) -> list[Entry]:
        """See `Sandbox.list_directory`."""
        async with self._inside():
            return await asyncio.to_thread(self._tree.entries, path)

    # --- who is inside ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        """Keeps the repository where it is."""
        async with self._gate:
            self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1
            await asyncio.shield(self._left())

    async def _left(self) -> None:
        async with self._gate:
            self._gate.notify_all()

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Waits until nobody is inside, and keeps everybody out."""
        async with self._gate:
            await self._gate.wait_for(lambda: self._visitors == 0)
            yield


async def _converse(process: Process, stdin: bytes, keep_bytes: int) -> Finished:
    assert process.stdout is not None
    assert process.stderr is not None
    (stdout, truncated), stderr, _ = await asyncio.gather(
        _read_beginning(process.stdout, keep_bytes), _read_end(process.stderr), _feed(process, stdin)
    )
    return Finished(await process.wait(), stdout, stderr, truncated)


async def _read_beginning(stream: asyncio.StreamReader, limit: int) -> tuple[bytes, bool]:
    kept = bytearray()
    truncated = False
    while piece := await stream.read(_READ_BYTES):
        room = limit - len(kept)
        kept += piece[:room]
        truncated |= len(piece) > room
    return bytes(kept), truncated


async def _read_end(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while piece := await stream.read(_READ_BYTES):
        kept = (kept + piece)[-_STDERR_BYTES:]
    return kept


async def _feed(process: Process, stdin: bytes) -> None:
    if process.stdin is not None:
        with contextlib.suppress(ConnectionError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@functools.cache
def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"{name} is not installed")
    return found


def _own_directory(path: Path, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a directory of this user")
    path.chmod(mode)


def _write(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    temporary.replace(path)


def _read_plain(directory: int, name: str, limit: int) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)


def _first_uid(root: Path) -> int:
    """Where the users of this root's sandboxes begin: roots of other services should not share them.

    A container may map few users; then they are taken from what it has.
    """
    available = 2**32
    with contextlib.suppress(OSError, ValueError):
        available = int(Path("/proc/self/uid_map").read_text().split()[2])
    number = int(hashlib.sha256(os.fsencode(root)).hexdigest()[:8], 16)
    if available < 2**31:
        return 20_000 + number % 4 * 10_000
    return 1_000_000 + number % 10_000 * _UID_SPAN
