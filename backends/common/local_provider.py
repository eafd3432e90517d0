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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from backends.common.child import Limits
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.git_command import GLOBAL_CONFIG
from backends.common.local_home import (
    damaged,
    has_box,
    is_abandoned,
    note_of_sandbox,
    noted_uid,
    read_clone,
    write_whole,
)
from backends.common.local_sandbox import InsideNow, LocalSandbox, Means
from backends.common.removal import remove_tree
from backends.common.sandbox import Terms
from backends.common.users import UserClaims, range_here

_NAME: Final = re.compile(r"[a-z0-9]{8,64}")
_THREADS: Final = 16
_ABANDONED_S: Final = 600.0
"""Nothing takes an instance so long."""


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
        self._means = Means(limits or Limits(), threads, abandoned_s, is_logged)
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
            if is_abandoned(unfinished, abandoned_s):
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
            write_whole(note_of_sandbox(building), json.dumps({"uid": uid}).encode(), 0o600, is_synced=True)
            write_whole(building / "gitconfig", GLOBAL_CONFIG.encode(), 0o644)
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
        noted = noted_uid(home)
        self._remove(name)
        self._release(name, uid if noted is None else noted)

    def _clear_away(self, name: str) -> None:
        """As `_destroy`, if no sandbox is there but what is left of one."""
        home = self._root / name
        if has_box(home):
            return
        uid = noted_uid(home)
        leaving = self._unfinished(name)
        try:
            home.rename(leaving)
        except FileNotFoundError:
            return
        if has_box(leaving):
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
                uid = json.loads(note_of_sandbox(home).read_text())["uid"]
                sandbox = LocalSandbox(name, home, uid, self._means, InsideNow(read_clone(home)))
                sandbox.tidy()
            except (FileNotFoundError, NotADirectoryError) as exc:
                if has_box(home):
                    # Somebody works there, whatever has become of the notes.
                    raise damaged() from exc
                return None
        except (ValueError, KeyError, TypeError) as exc:
            raise damaged() from exc
        except OSError as exc:
            # Too many open files, say. Whoever took it for gone would remove what somebody works on.
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"a sandbox cannot be read: {exc.strerror}") from exc
        return sandbox


def _own_directory(path: Path, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a directory of this user")
    path.chmod(mode)
