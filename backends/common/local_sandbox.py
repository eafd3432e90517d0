"""One sandbox on this machine: commands as child processes, files under its own user, one writer at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from backends.common.child import Limits, Program, converse, running
from backends.common.errors import Code, ServiceError
from backends.common.fencing import DIRECTORY, check_guard, guarded, passing
from backends.common.finishing import to_the_end
from backends.common.git_command import Command
from backends.common.local_home import (
    is_abandoned,
    read_clone,
    write_whole,
)
from backends.common.local_remote import serving
from backends.common.locks import Fence
from backends.common.removal import remove_tree
from backends.common.sandbox import Entry, Finished
from backends.common.tree import Tree

_COMMANDS_AT_ONCE: Final = 16
"""In one sandbox. A git that reads a large index starts 20 threads, which count as processes of the sandbox's user."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Means:
    """What all sandboxes of a provider share.

    Attributes:
        limits: Of each command.
        is_logged: Who writes, says so (`fencing`).
        threads: For files. Not the loop's own, which look up names of hosts: those may take long, and callers choose
            them.
        abandoned_s: What lies about half done for longer has been left by who made it.
    """

    limits: Limits
    threads: ThreadPoolExecutor
    abandoned_s: float
    is_logged: bool

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Blocking work; it has ended when this returns or raises, also when it raises a cancellation."""
        return await to_the_end(asyncio.get_running_loop().run_in_executor(self.threads, work))


@dataclass(eq=False)
class InsideNow:
    """What is true of a sandbox now, however many hold it.

    Attributes:
        clone: The clone that is in place: its URL, its configuration, the name of its tree.
        visitors: How many work in a tree, by its name.
        turns: Bounds its commands.
    """

    clone: dict[str, str] | None = None
    visitors: dict[str, int] = field(default_factory=dict)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_COMMANDS_AT_ONCE))


@dataclass(eq=False)
class LocalSandbox:
    """Implements `Sandbox`.

    Attributes:
        name: Names it towards its provider.
        uid: User and group of its commands and files, or None for the service's own.
    """

    name: str
    _home: Path
    uid: int | None
    _means: Means
    _inside_now: InsideNow = field(default_factory=InsideNow)
    _fence: Fence = None

    def fenced(self, fence: Fence) -> LocalSandbox:
        """See `Sandbox.fenced`."""
        return replace(self, _fence=fence)

    def refresh(self) -> None:
        """Looks whether another instance has cloned anew."""
        clone = read_clone(self._home)
        if clone != self._inside_now.clone:
            self._inside_now.clone = clone

    def is_there(self) -> bool:
        """Whether nobody removed it, or the part that commands work in, behind the service's back."""
        return self._home.is_dir() and self._box.is_dir()

    async def is_healthy(self) -> bool:
        """See `Sandbox.is_healthy`."""
        expected = os.geteuid() if self.uid is None else self.uid
        try:
            places = [path.lstat() for path in (self._box, self._box / "home")]
        except OSError:
            return False
        return all(stat.S_ISDIR(place.st_mode) and place.st_uid == expected for place in places)

    @property
    def has_repository(self) -> bool:
        """Whether something was cloned here."""
        return self._inside_now.clone is not None

    @property
    def _box(self) -> Path:
        return self._home / "box"

    def tidy(self) -> None:
        """Removes what an earlier run of the service left half done."""
        kept = {"home", DIRECTORY}
        if self._inside_now.clone is not None:
            kept.add(self._inside_now.clone["tree"])
        for path in [*self._box.iterdir(), *self._home.glob("link-*")]:
            if path.name not in kept and is_abandoned(path, self._means.abandoned_s):
                remove_tree(path)

    # --- commands --------------------------------------------------------------------------------------------------

    @property
    def global_config(self) -> str:
        """See `Sandbox.global_config`."""
        return str(self._home / "gitconfig")

    async def run(self, command: Command, *, keep_bytes: int) -> Finished:
        """See `Sandbox.run`.

        Raises:
            ServiceError: `sandbox_unavailable`: the command could not be started, or the sandbox is gone.
        """
        with self._explained():
            async with self._inside_now.turns:
                if command.is_outside:
                    return await self._run(command, self._box, keep_bytes)
                async with self._inside() as tree:
                    return await self._run(command, tree, keep_bytes)

    async def _write(self, work: Callable[[], T], what: str) -> T:
        """Blocking work that changes something here, under the fence."""

        def under_fence() -> T:
            if self._fence is None:
                return work()
            with passing(self._box, self.uid, self._fence, what if self._means.is_logged else None):
                return work()

        with self._explained():
            return await self._means.in_thread(under_fence)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever fails in a sandbox that is gone, fails for that."""
        try:
            yield
        except (OSError, ServiceError) as exc:
            if self.is_there():
                raise
            raise _gone() from exc

    async def _run(self, command: Command, directory: Path, keep_bytes: int) -> Finished:
        if self._fence is not None:
            place = str(self._box / DIRECTORY)
            command = guarded(command, place, self._fence, is_logged=self._means.is_logged)
        async with serving(command, self._home, self.uid) as far:
            program = Program(
                far.command.argv,
                {"HOME": str(self._box / "home"), **far.command.env},
                directory,
                user=None if self.uid is None else (self.uid, self.uid),
                is_counted=self.uid is not None,
                limits=self._means.limits,
            )
            async with running(program, has_stdin=bool(command.stdin)) as process:
                finished = await converse(process, command.stdin, keep_bytes)
        if finished.code and not self.is_there():
            # What git says of that is as if the repository were at fault.
            raise _gone()
        finished = replace(finished, stderr=far.stderr + finished.stderr)
        return check_guard(finished) if self._fence is not None else finished

    # --- the repository --------------------------------------------------------------------------------------------

    async def settle_clone(self, name: str, remote_url: str) -> None:
        """See `Sandbox.settle_clone`."""
        before = self._inside_now.clone
        self._inside_now.clone = await self._write(lambda: self._settle_clone(name, remote_url), "settle_clone")
        if before is not None:
            await to_the_end(self._clear(before["tree"]))

    def _settle_clone(self, name: str, remote_url: str) -> dict[str, str]:
        config = (self._box / name / ".git" / "config").read_bytes()
        content = {"url": remote_url, "config": config.decode(errors="surrogateescape"), "tree": name}
        # One rename: whatever interrupts it, the workspace is the old clone or the new one.
        write_whole(self._home / "meta" / "clone.json", json.dumps(content).encode(), 0o600, is_synced=True)
        return content

    async def discard_clone(self, name: str) -> None:
        """See `Sandbox.discard_clone`."""
        await self._means.in_thread(lambda: remove_tree(self._box / name))

    async def retire(self) -> bool:
        """See `Sandbox.retire`."""
        try:
            return await self._write(self._retire, "retire")
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"a sandbox cannot be removed: {exc.strerror}") from exc

    def _retire(self) -> bool:
        self.refresh()
        if self.has_repository:
            return False
        # Under another name, nobody finds it.
        leaving = self._home.with_name(f".{self.name}-{secrets.token_hex(4)}")
        self._home.rename(leaving)
        remove_tree(leaving)
        return True

    async def prepare(self) -> None:
        """See `Sandbox.prepare`."""
        await self._write(self._prepare, "prepare")

    def _prepare(self) -> None:
        clone = self._clone()
        expected = clone["config"].encode(errors="surrogateescape")
        # Only plain directories and files: a link planted here would make us read or write elsewhere.
        with contextlib.ExitStack() as opened:
            try:
                repository = os.open(self._box / clone["tree"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                opened.callback(os.close, repository)
                directory = os.open(".git", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=repository)
            except OSError as exc:
                raise ServiceError(Code.INTERNAL, "the repository is damaged; clone it again") from exc
        try:
            # It would lead git to another configuration, which may lie among the files of the repository.
            with contextlib.suppress(FileNotFoundError):
                os.unlink("commondir", dir_fd=directory)
            if _read_plain(directory, "config", len(expected) + 1) != expected:
                self._rewrite_config(directory, expected)
        finally:
            os.close(directory)

    def _rewrite_config(self, directory: int, content: bytes) -> None:
        temporary = f"config.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
            if self.uid is not None:
                os.fchown(file.fileno(), self.uid, self.uid)
            file.write(content)
        os.replace(temporary, "config", src_dir_fd=directory, dst_dir_fd=directory)

    async def remove_stale_locks(self) -> None:
        """See `Sandbox.remove_stale_locks`."""
        async with self._inside() as tree:
            await self._write(lambda: _remove_locks(tree / ".git"), "remove_stale_locks")

    async def objects_directory(self) -> str:
        """See `Sandbox.objects_directory`."""
        return (
            ""
            if self._inside_now.clone is None
            else str(self._box / self._inside_now.clone["tree"] / ".git" / "objects")
        )

    async def remote_url(self) -> str:
        """See `Sandbox.remote_url`."""
        return self._clone()["url"]

    def _clone(self) -> dict[str, str]:
        if self._inside_now.clone is None:
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned here; clone first")
        return self._inside_now.clone

    # --- files -----------------------------------------------------------------------------------------------------

    async def read_file(self, path: str, limit: int) -> tuple[bytes, int]:
        """See `Sandbox.read_file`."""
        with self._explained():
            async with self._inside() as tree:
                return await self._means.in_thread(lambda: self._files(tree).read(path, limit))

    async def write_file(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        async with self._inside() as tree:
            await self._write(lambda: self._files(tree).write(path, content), "write_file")

    async def delete_file(self, path: str) -> None:
        """See `Sandbox.delete_file`."""
        async with self._inside() as tree:
            await self._write(lambda: self._files(tree).delete(path), "delete_file")

    async def list_directory(self, path: str) -> list[Entry]:
        """See `Sandbox.list_directory`."""
        with self._explained():
            async with self._inside() as tree:
                return await self._means.in_thread(lambda: self._files(tree).entries(path))

    # --- who is inside ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _inside(self) -> AsyncIterator[Path]:
        """The repository as it is now. A clone that takes its place meanwhile leaves it where it is until the end."""
        name = self._clone()["tree"]
        self._inside_now.visitors[name] = self._inside_now.visitors.get(name, 0) + 1
        try:
            yield self._box / name
        finally:
            self._inside_now.visitors[name] -= 1
            if not self._inside_now.visitors[name]:
                del self._inside_now.visitors[name]
                now = self._inside_now.clone
                if now is None or name != now["tree"]:
                    await to_the_end(self._clear(name))

    async def _clear(self, name: str) -> None:
        if name not in self._inside_now.visitors:
            await self._means.in_thread(lambda: remove_tree(self._box / name))

    def _files(self, tree: Path) -> Tree:
        return Tree(tree, self.uid, self._home / "meta")


def _gone() -> ServiceError:
    return ServiceError(Code.SANDBOX_UNAVAILABLE, "the sandbox is gone")


def _remove_locks(directory: Path) -> None:
    # Links are not followed: neither by fwalk nor by unlink. Objects have no locks, and there may be many of them.
    for _, directories, files, descriptor in os.fwalk(directory):
        if "objects" in directories:
            directories.remove("objects")
        for name in files:
            if name.endswith(".lock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)


def _read_plain(directory: int, name: str, limit: int) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)
