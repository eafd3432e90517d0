"""What a sandbox is, whoever provides it: a place where one workspace's commands run and its files lie.

Providers: `local_provider` (a directory and child processes of this machine), `e2b_provider` (the sandbox cloud).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from backends.common.git_command import Command
from backends.common.locks import Fence


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended.

    Attributes:
        code: Exit code; 128 and more = the signal that ended it.
        stdout: At most the limit that was asked for.
        stderr: Its last part.
        truncated: More was said on stdout than was kept.
    """

    code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a directory.

    Attributes:
        path: From the root of the repository, `/` between parts.
        kind: `file`, `dir` or `symlink`.
        size: In bytes; None for what is no file.
    """

    path: str
    kind: str
    size: int | None


class Sandbox(Protocol):
    """One sandbox. Every method raises `ServiceError`."""

    @property
    def name(self) -> str:
        """Names it towards its provider."""
        ...

    def fenced(self, fence: Fence) -> Sandbox:
        """The same sandbox for one hold of its workspace: what it changes, it changes under the fence (`fencing`)."""
        ...

    async def is_healthy(self) -> bool:
        """Whether commands can run in it."""
        ...

    @property
    def has_repository(self) -> bool:
        """Whether something was cloned here."""
        ...

    @property
    def global_config(self) -> str:
        """Path, in the sandbox, of our global configuration of git."""
        ...

    async def run(self, command: Command, *, keep_bytes: int) -> Finished:
        """Runs a command and waits for its end.

        Also on cancellation every process of the command has ended before this returns or raises.

        Args:
            command: What to run.
            keep_bytes: How much of stdout is kept.
        """
        ...

    async def settle_clone(self, name: str, remote_url: str) -> None:
        """Puts what was cloned to `name`, beside the repository, in the repository's place."""
        ...

    async def discard_clone(self, name: str) -> None:
        """Removes a clone that did not succeed."""
        ...

    async def retire(self) -> bool:
        """Looks, inside and under the fence, whether it holds a repository; where it holds none it is to be destroyed.

        Returns:
            False: it holds one, of whoever came later. True: nobody begins to work in it any more before it is gone, or
            not for a minute at least.
        """
        ...

    async def prepare(self) -> None:
        """Restores what must not change before a call of git: the repository's own configuration."""
        ...

    async def remove_stale_locks(self) -> None:
        """Removes the lock files of a git that was killed. Only for who holds the workspace: no git writes there."""
        ...

    async def objects_directory(self) -> str:
        """Where the repository's objects lie, for a command that runs outside of it; empty where there is none."""
        ...

    async def remote_url(self) -> str:
        """The URL that was cloned."""
        ...

    async def read_file(self, path: str, limit: int) -> tuple[bytes, int]:
        """The beginning of a file, and its size."""
        ...

    async def write_file(self, path: str, content: bytes) -> None:
        """Writes a file whole, making directories as needed."""
        ...

    async def delete_file(self, path: str) -> None:
        """Removes a file."""
        ...

    async def list_directory(self, path: str) -> list[Entry]:
        """What lies in a directory, without what is below it."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which a provider gives sandboxes.

    Attributes:
        life_s: One that nobody uses is gone after so long; None = it stays.
        creations_per_s: More are refused; None = as many as the machine can make.
    """

    life_s: float | None = None
    creations_per_s: float | None = None


class SandboxProvider(Protocol):
    """Makes sandboxes and finds them again."""

    @property
    def terms(self) -> Terms:
        """Under which sandboxes are had."""
        ...

    def belong_to(self, deployment: str) -> None:
        """Says whose sandboxes these are, before anything else is asked. Those of other deployments are not seen.

        Args:
            deployment: A random name, kept where all instances of a deployment find it.
        """
        ...

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> Sandbox:
        """A fresh sandbox.

        Args:
            name: By which it is found again.
            labels: For whoever looks at the provider's own list, where it has one.
        """
        ...

    async def find(self, name: str) -> Sandbox | None:
        """A sandbox that was made before, or None."""
        ...

    async def destroy(self, name: str) -> None:
        """Removes a sandbox with everything in it."""
        ...

    async def names(self) -> list[str]:
        """Every sandbox there is."""
        ...
