"""Child processes of the local provider: started under limits, read within bounds, ended with all that they started."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.common import exec_wrapper
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.sandbox import Finished

_STDERR_BYTES: Final = 8192
_READ_BYTES: Final = 65_536
_END_S: Final = 10.0
_STAYS: Final = -1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use.

    Attributes:
        cpu_s: Processor time of each of its processes.
        memory_bytes: Address space of each of its processes.
        file_bytes: Size of a file that it writes.
        processes: Processes of the sandbox's user; counted only where it has one of its own.
    """

    cpu_s: int = 600
    memory_bytes: int = 4 << 30
    file_bytes: int = 2 << 30
    processes: int = 512


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    Attributes:
        argv: Name of a program and its arguments.
        env: Its whole environment but for `PATH`.
        directory: Where it runs.
        user: User and group it drops to, or None for the service's own.
        is_counted: Whether its user is nobody else's, so that processes can be limited.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    directory: Path
    user: tuple[int, int] | None = None
    is_counted: bool = False
    limits: Limits = field(default_factory=Limits)


@contextlib.asynccontextmanager
async def running(program: Program, *, has_stdin: bool = False) -> AsyncIterator[Process]:
    """A process; when the block is left, every process that it started has ended.

    Raises:
        ServiceError: `sandbox_unavailable`: it could not be started.
    """
    leash, held = os.pipe()
    try:
        starting = asyncio.ensure_future(_start(program, leash, has_stdin=has_stdin))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It starts all the same; whoever gets the workspace next must not meet it.
            with contextlib.suppress(ServiceError):
                begun = await to_the_end(starting)
                os.close(held)
                held = -1
                await to_the_end(_end(begun))
            raise
    except BaseException:
        if held >= 0:
            os.close(held)
        raise
    finally:
        os.close(leash)
    try:
        yield process
    finally:
        os.close(held)
        await to_the_end(_end(process))


async def converse(process: Process, stdin: bytes, keep_bytes: int) -> Finished:
    """Feeds a process, reads what it says and waits for its end.

    Args:
        process: With pipes.
        stdin: What it reads.
        keep_bytes: How much of stdout is kept; the rest is read and dropped.
    """
    assert process.stdout is not None
    (stdout, truncated), stderr, _ = await asyncio.gather(
        _read_beginning(process.stdout, keep_bytes), read_end(process), _feed(process, stdin)
    )
    return Finished(await process.wait(), stdout, stderr, truncated)


async def read_end(process: Process) -> bytes:
    """The last part of what a process says on stderr, once it has closed it."""
    assert process.stderr is not None
    kept = b""
    while piece := await process.stderr.read(_READ_BYTES):
        kept = (kept + piece)[-_STDERR_BYTES:]
    return kept


async def _start(program: Program, leash: int, *, has_stdin: bool) -> Process:
    limits = program.limits
    uid, gid = program.user or (_STAYS, _STAYS)
    processes = limits.processes if program.is_counted else 0
    numbers = (leash, uid, gid, limits.cpu_s, limits.memory_bytes, limits.file_bytes, processes)
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(exec_wrapper.__file__)), *map(str, numbers)),
            *(_path_of(program.argv[0]), *program.argv[1:]),
            cwd=program.directory,
            # LC_ALL: without it Python would add a variable of its own for the command.
            env={"PATH": _path(), "LC_ALL": "C.UTF-8", **program.env},
            stdin=PIPE if has_stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=[leash],
            start_new_session=True,
        )
    except OSError as exc:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"no command can be run: {exc.strerror}") from exc


async def _end(process: Process) -> None:
    """Waits for the wrapper, which ends after everything that it kills has ended."""
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        # Something hangs in the kernel. Without the wrapper it is still to die.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _read_beginning(stream: asyncio.StreamReader, limit: int) -> tuple[bytes, bool]:
    kept = bytearray()
    truncated = False
    while piece := await stream.read(_READ_BYTES):
        room = limit - len(kept)
        kept += piece[:room]
        truncated |= len(piece) > room
    return bytes(kept), truncated


async def _feed(process: Process, stdin: bytes) -> None:
    if process.stdin is not None:
        with contextlib.suppress(ConnectionError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()


@functools.cache
def _path() -> str:
    """Where commands look for programs: where git and the shell are, and the usual places. Not the service's own."""
    found = [str(Path(path).parent) for path in map(shutil.which, ("git", "sh", "cat")) if path]
    return os.pathsep.join(dict.fromkeys([*found, "/usr/local/bin", "/usr/bin", "/bin"]))


@functools.cache
def _path_of(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"{name} is not installed")
    return found
