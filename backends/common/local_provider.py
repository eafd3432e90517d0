"""Sandboxes on this machine: a directory, and child processes under resource limits.

For one trusted machine, not an isolation boundary: what runs here shares the kernel, the network and, unless the
service runs as root, the user. As root each sandbox has a user of its own, who cannot read another one's files.

    <root>/../users/         0700  claims of users, where the service is root
    <root>/<name>/           0711  the service's
      meta/                  0700  the service's: uid; URL, git configuration and place of the clone; files on their way
      gitconfig              0644  our global configuration for git
      box/                   0700  the sandbox's: home/, the repository, clones under way
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from backends.common.child import Limits, Program, converse, running
from backends.common.errors import Code, ServiceError
from backends.common.fencing import DIRECTORY, check_guard, guarded, passing
from backends.common.finishing import to_the_end
from backends.common.git_command import GLOBAL_CONFIG, Command
from backends.common.local_remote import serving
from backends.common.locks import Fence
from backends.common.removal import remove_tree
from backends.common.sandbox import Entry, Finished, Terms
from backends.common.tree import Tree
from backends.common.users import UserClaims, range_here

_NAME: Final = re.compile(r"[a-z0-9]{8,64}")
_THREADS: Final = 16
_ABANDONED_S: Final = 600.0
"""Nothing takes an instance so long."""
_COMMANDS_AT_ONCE: Final = 16
"""In one sandbox. A git that reads a large index starts 20 threads, which count as processes of the sandbox's user."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Means:
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
class _InsideNow:
    """What is true of a sandbox now, however many hold it.

    Attributes:
        clone: The clone that is in place: its URL, its configuration, the name of its tree.
        visitors: How many work in a tree, by its name.
        turns: Bounds its commands.
    """

    clone: dict[str, str] | None = None
    visitors: dict[str, int] = field(default_factory=dict)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_COMMANDS_AT_ONCE))


class LocalProvider:
    """Implements `SandboxProvider` below one directory."""

    def __init__(
        self, root: Path, limits: Limits | None = None, *, is_shared: bool = False, is_logged: bool = False
    ) -> None:
        """Makes the directory; it must be the service's own.

        Args:
            root: Where sandboxes lie.
            limits: Of each command.
            is_shared: Other instances of the service work there as well.
            is_logged: Who writes under a fence, says so in the sandbox (`fencing`).

        Raises:
            OSError: It cannot be made, or belongs to somebody else.
        """
        self._root = root
        abandoned_s = _ABANDONED_S if is_shared else 0.0
        threads = ThreadPoolExecutor(_THREADS, "sandbox-files")
        self._means = _Means(limits or Limits(), threads, abandoned_s, is_logged)
        self._sandboxes: dict[str, LocalSandbox] = {}
        self._opening = asyncio.Lock()
        self._is_root = os.geteuid() == 0
        _own_directory(root, 0o711 if self._is_root else 0o700)
        self._users = None
        if self._is_root:
            claims = root.parent / "users"
            _own_directory(claims, 0o700)
            self._users = UserClaims(claims, range_here())
        for unfinished in root.glob(".*"):
            if _is_abandoned(unfinished, abandoned_s):
                remove_tree(unfinished)
        # Of one that died while nobody looked. No home is without a box before: it gets its name when it is whole.
        for home in root.iterdir():
            if _NAME.fullmatch(home.name) and (home / "meta").is_dir():
                self._clear_away(home.name)

    @property
    def terms(self) -> Terms:
        """See `SandboxProvider.terms`."""
        return Terms()

    def belong_to(self, deployment: str) -> None:
        """See `SandboxProvider.belong_to`. Who shares the directory shares the sandboxes."""

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> LocalSandbox:  # noqa: ARG002 - no list here
        """A fresh sandbox.

        Raises:
            ServiceError: `sandbox_unavailable`: the machine refuses.
        """
        try:
            sandbox = await self._means.in_thread(lambda: self._create(name))
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"no sandbox could be made: {exc.strerror}") from exc
        except asyncio.CancelledError:
            # It was made all the same, and nobody knows of it.
            await to_the_end(self.destroy(name))
            raise
        self._sandboxes[name] = sandbox
        return sandbox

    async def find(self, name: str) -> LocalSandbox | None:
        """A sandbox that was made before, also by an earlier run, or None.

        Raises:
            ServiceError: `sandbox_unavailable`: it is there and cannot be read; it is not to be taken for gone.
        """
        known = self._sandboxes.get(name)
        if known is not None and known.is_there():
            known.refresh()
            return known
        self._sandboxes.pop(name, None)
        if not _NAME.fullmatch(name):
            return None
        # One at a time: who opens it also tidies it up, which nobody may do once it is in use.
        async with self._opening:
            if name not in self._sandboxes:
                found = await self._means.in_thread(lambda: self._open(name))
                if found is not None:
                    self._sandboxes[name] = found
            return self._sandboxes.get(name)

    async def destroy(self, name: str) -> None:
        """Removes a sandbox with everything in it, and what is left of one that is gone.

        Raises:
            ServiceError: `sandbox_unavailable`: it is there and cannot be read.
        """
        # One that was retired is not where it was.
        sandbox = self._sandboxes.get(name) or await self.find(name)
        self._sandboxes.pop(name, None)
        if _NAME.fullmatch(name):
            await self._means.in_thread(lambda: self._destroy(name, sandbox.uid if sandbox is not None else None))

    async def names(self) -> list[str]:
        """Every sandbox there is. One whose box is gone is none.

        Raises:
            ServiceError: `sandbox_unavailable`: the machine does not say.
        """
        try:
            paths = [path for path in self._root.iterdir() if _NAME.fullmatch(path.name)]
            return sorted(path.name for path in paths if (path / "box").is_dir())
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"no sandbox can be listed: {exc.strerror}") from exc

    def _create(self, name: str) -> LocalSandbox:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a sandbox")
        # What is left of one of that name that died: it was not found, and is in the way. Before other services wait.
        self._clear_away(name)
        if self._users is None:
            return self._build(name, None)
        with self._users.claimed(self._root / name) as uid:
            return self._build(name, uid)

    def _build(self, name: str, uid: int | None) -> LocalSandbox:
        # Complete under another name first: a service that is killed in between leaves no half of a sandbox.
        building = self._unfinished(name)
        building.mkdir(mode=0o700)
        try:
            (building / "meta").mkdir(mode=0o700)
            _write(_note_of_sandbox(building), json.dumps({"uid": uid}).encode(), 0o600, is_synced=True)
            _write(building / "gitconfig", GLOBAL_CONFIG.encode(), 0o644)
            for directory in (building / "box", building / "box" / "home"):
                directory.mkdir(mode=0o700)
                if uid is not None:
                    os.chown(directory, uid, uid)
            building.chmod(0o711 if self._is_root else 0o700)
            # Fails where one is: no directory takes the place of another that holds something.
            building.rename(self._root / name)
        except BaseException:
            remove_tree(building)
            raise
        return LocalSandbox(name, self._root / name, uid, self._means)

    def _destroy(self, name: str, uid: int | None) -> None:
        """Removes what has a name, and gives its user back.

        Args:
            name: Of the sandbox.
            uid: Its user, where that is not noted there any more.
        """
        home = self._root / name
        noted = _noted_uid(home)
        self._remove(name)
        self._release(name, uid if noted is None else noted)

    def _clear_away(self, name: str) -> None:
        """As `_destroy`, if no sandbox is there but what is left of one."""
        home = self._root / name
        if _has_box(home):
            return
        uid = _noted_uid(home)
        leaving = self._unfinished(name)
        try:
            home.rename(leaving)
        except FileNotFoundError:
            return
        if _has_box(leaving):
            # Another instance has made it anew between the two looks.
            leaving.rename(home)
            return
        remove_tree(leaving)
        self._release(name, uid)

    def _release(self, name: str, uid: int | None) -> None:
        if self._users is not None and uid is not None:
            self._users.release(uid, self._root / name)

    def _remove(self, name: str) -> None:
        # Under another name first, as it was made: nobody finds half of it.
        leaving = self._unfinished(name)
        with contextlib.suppress(FileNotFoundError):
            (self._root / name).rename(leaving)
        remove_tree(leaving)

    def _unfinished(self, name: str) -> Path:
        return self._root / f".{name}-{secrets.token_hex(4)}"

    def _open(self, name: str) -> LocalSandbox | None:
        home = self._root / name
        try:
            try:
                uid = json.loads(_note_of_sandbox(home).read_text())["uid"]
                sandbox = LocalSandbox(name, home, uid, self._means, _InsideNow(_read_clone(home)))
                sandbox.tidy()
            except (FileNotFoundError, NotADirectoryError) as exc:
                if _has_box(home):
                    # Somebody works there, whatever has become of the notes.
                    raise _damaged() from exc
                return None
        except (ValueError, KeyError, TypeError) as exc:
            raise _damaged() from exc
        except OSError as exc:
            # Too many open files, say. Whoever took it for gone would remove what somebody works on.
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"a sandbox cannot be read: {exc.strerror}") from exc
        return sandbox


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
    _means: _Means
    _inside_now: _InsideNow = field(default_factory=_InsideNow)
    _fence: Fence = None

    def fenced(self, fence: Fence) -> LocalSandbox:
        """See `Sandbox.fenced`."""
        return replace(self, _fence=fence)

    def refresh(self) -> None:
        """Looks whether another instance has cloned anew."""
        clone = _read_clone(self._home)
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
            if path.name not in kept and _is_abandoned(path, self._means.abandoned_s):
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
        _write(self._home / "meta" / "clone.json", json.dumps(content).encode(), 0o600, is_synced=True)
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


def _is_abandoned(path: Path, after_s: float) -> bool:
    """Whether whoever made it is gone."""
    try:
        return time.time() - path.lstat().st_ctime >= after_s
    except FileNotFoundError:
        return False


def _has_box(home: Path) -> bool:
    """Whether a sandbox is there, and not what is left of one.

    Raises:
        OSError: That cannot be said.
    """
    try:
        return stat.S_ISDIR((home / "box").lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _note_of_sandbox(home: Path) -> Path:
    return home / "meta" / "sandbox.json"


def _noted_uid(home: Path) -> int | None:
    """The user of a sandbox, also of one that is gone; None where it has none, or nothing can be read."""
    try:
        uid = json.loads(_note_of_sandbox(home).read_text())["uid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return uid if isinstance(uid, int) else None


def _read_clone(home: Path) -> dict[str, str] | None:
    try:
        content = json.loads((home / "meta" / "clone.json").read_text())
        return {part: str(content[part]) for part in ("url", "config", "tree")}
    except FileNotFoundError as exc:
        if not (home / "meta").is_dir() and _has_box(home):
            # Not even the place of the notes is left: that it holds no clone, nobody can say.
            raise _damaged() from exc
        return None
    except (ValueError, KeyError, TypeError) as exc:
        # What is there belongs to somebody, whatever the note has become: nothing is tidied up for that.
        raise _damaged() from exc


def _gone() -> ServiceError:
    return ServiceError(Code.SANDBOX_UNAVAILABLE, "the sandbox is gone")


def _damaged() -> ServiceError:
    return ServiceError(Code.SANDBOX_UNAVAILABLE, "a sandbox cannot be read: its notes are damaged")


def _remove_locks(directory: Path) -> None:
    # Links are not followed: neither by fwalk nor by unlink. Objects have no locks, and there may be many of them.
    for _, directories, files, descriptor in os.fwalk(directory):
        if "objects" in directories:
            directories.remove("objects")
        for name in files:
            if name.endswith(".lock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)


def _own_directory(path: Path, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a directory of this user")
    path.chmod(mode)


def _write(path: Path, content: bytes, mode: int, *, is_synced: bool = False) -> None:
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


def _read_plain(directory: int, name: str, limit: int) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)
