"""Local remotes: the service itself serves a repository of this machine to a git in a sandbox.

A sandbox's user may neither reach nor write what somebody else owns, and what it wrote there the next sandbox could
not read. So the far end of the protocol (`git upload-pack`, `git receive-pack`) runs outside, as the owner of the
repository, and the two ends meet in a pair of named pipes. The near end stays an ordinary git with the ordinary rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from backends.common.child import Program, read_end, running
from backends.common.finishing import to_the_end
from backends.common.git_command import Command, Served

_POKE_S: Final = 0.05
_AS_NEAR_END: Final = (os.O_WRONLY, os.O_RDONLY)
_AS_FAR_END: Final = (os.O_RDONLY, os.O_WRONLY)
_LAST_WORDS_S: Final = 5.0

_SERVE: Final = 'umask 022; exec "$@" <"$CROSSFADE_TO_REMOTE" >"$CROSSFADE_FROM_REMOTE"'


@dataclass(slots=True)
class FarEnd:
    """The far end of a call on a local remote.

    Attributes:
        command: The call, told where to meet it.
        stderr: Last part of what it said; complete once the block that made it is left.
    """

    command: Command
    stderr: bytes = b""


@contextlib.asynccontextmanager
async def serving(command: Command, beside: Path, sandbox_uid: int | None) -> AsyncIterator[FarEnd]:
    """Serves the local remote of a command, if it has one, while the block runs.

    Args:
        command: A call of git.
        beside: A directory of the service that the sandbox's user may pass through.
        sandbox_uid: That user, or None for the service's own.
    """
    if command.served is None:
        yield FarEnd(command)
        return
    meeting = beside / f"link-{secrets.token_hex(16)}"
    meeting.mkdir(mode=0o700)
    try:
        pipes = {"CROSSFADE_TO_REMOTE": str(meeting / "to"), "CROSSFADE_FROM_REMOTE": str(meeting / "from")}
        for path in pipes.values():
            os.mkfifo(path, 0o600)
            if sandbox_uid is not None:
                # Whoever serves may be a third user; the directory's name is the key, and it cannot be listed.
                os.chmod(path, 0o666)  # noqa: PTH101, S103 - see above; nothing to wait for
        meeting.chmod(0o700 if sandbox_uid is None else 0o711)
        far = FarEnd(replace(command, env={**command.env, **pipes}))
        near_end = asyncio.get_running_loop().create_future()
        server = asyncio.create_task(_serve(command.served, pipes, near_end))
        try:
            yield far
            near_end.set_result(None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    # A git that finds a fault of its own never comes to meet the far end.
                    await _let_go(pipes, _AS_NEAR_END, server)
                    far.stderr = server.result()
        finally:
            server.cancel()
            await to_the_end(asyncio.gather(server, return_exceptions=True))
    finally:
        shutil.rmtree(meeting, ignore_errors=True)


async def _serve(served: Served, pipes: dict[str, str], near_end: asyncio.Future[None]) -> bytes:
    path = served.path
    git = (
        *("git", "-c", f"safe.directory={path}", "-c", "core.fsmonitor=false"),
        *("-c", "receive.autogc=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false"),
        *(served.program.value, path),
    )
    env = {
        **pipes,
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_PROTOCOL": "version=2",
    }
    program = Program(("sh", "-c", _SERVE, "sh", *git), env, Path("/"), user=_owner(path))
    async with running(program) as process:
        stderr = await read_end(process)
        failed = await process.wait()
    if failed:
        await _let_go(pipes, _AS_FAR_END, near_end)
    return stderr


async def _let_go(pipes: dict[str, str], flags: tuple[int, int], other: asyncio.Future[Any]) -> None:
    """Plays, until the other end is over, the end that is no more: opening a pipe waits for somebody to open it too."""
    while not other.done():
        for path, flag in zip(pipes.values(), flags, strict=True):
            with contextlib.suppress(OSError):
                os.close(os.open(path, flag | os.O_NONBLOCK))
        await asyncio.wait([other], timeout=_POKE_S)


def _owner(path: str) -> tuple[int, int] | None:
    """Whom to be: the repository's owner, so that its files stay theirs; without root only oneself."""
    status = Path(path).stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        return None
    return status.st_uid, status.st_gid
