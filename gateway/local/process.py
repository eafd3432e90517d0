"""One process of a part: its start with what it inherits, and the ends that the supervisor keeps.

It runs in a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.channel import Channel, Message, open_channel
from gateway.local import lifeline
from gateway.local.plan import CHANNEL_FD, SOCKET_FD, PartSpec

_LIFELINE_VARIABLE: Final = "CROSSFADE_LIFELINE_FD"
_STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class PartProcess:
    """A process that was started.

    Attributes:
        process: It.
        channel: Our end, or None.
        lifeline: Write end of its pipe, or None.
    """

    process: asyncio.subprocess.Process
    channel: Channel | None
    lifeline: int | None

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self.process.pid

    def send(self, message: Message) -> bool:
        """Sends on the channel. False when there is none."""
        return self.channel is not None and self.channel.send(message)

    def ask_to_end(self, *, linger: bool) -> None:
        """Asks it to finish what it does, and end.

        Args:
            linger: A successor has taken over; idle clients are let go gently.
        """
        if not (linger and self.send({"type": "drain", "linger": True})):
            with suppress(ProcessLookupError):
                self.process.terminate()

    def kill(self) -> None:
        """Ends it, and what it started in its group, at once."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Lets go of our ends."""
        if self.channel is not None:
            self.channel.close()
        if self.lifeline is not None:
            os.close(self.lifeline)


async def spawn(spec: PartSpec) -> PartProcess:
    """Starts a part's process.

    Raises:
        OSError: The program cannot be started.
    """
    with ExitStack() as ours_until_started, ExitStack() as theirs:
        ends = _open_ends(spec, ours_until_started, theirs)
        process = await asyncio.create_subprocess_exec(
            *ends.argv,
            env=ends.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=_STDERR,  # standard output belongs to the command that the operator typed
            pass_fds=ends.inherited,
            start_new_session=True,
            umask=spec.umask,
        )
        ours_until_started.pop_all()
    return PartProcess(process, await open_channel(ends.channel) if ends.channel else None, ends.lifeline)


@dataclass(slots=True)
class _Ends:
    """What a process is started with, and our ends of what ties it to us."""

    argv: list[str]
    env: dict[str, str]
    inherited: list[int] = field(default_factory=list)
    channel: socket.socket | None = None
    lifeline: int | None = None


def _open_ends(spec: PartSpec, ours: ExitStack, theirs: ExitStack) -> _Ends:
    ends = _Ends(list(spec.argv), dict(spec.env), list(spec.keeps_open))
    numbers: dict[str, int] = {}
    if spec.sock is not None:
        numbers[SOCKET_FD] = spec.sock.fileno()
        ends.inherited.append(spec.sock.fileno())
    if spec.has_channel:
        ends.channel, far = socket.socketpair()
        ours.callback(ends.channel.close)
        theirs.callback(far.close)
        numbers[CHANNEL_FD] = far.fileno()
        ends.inherited.append(far.fileno())
    else:
        near, ends.lifeline = os.pipe()
        ours.callback(os.close, ends.lifeline)
        theirs.callback(os.close, near)
        ends.inherited.append(near)
        if spec.is_foreign:
            ends.argv = [sys.executable, "-I", "-S", str(Path(lifeline.__file__)), str(near), *ends.argv]
        else:
            ends.env[_LIFELINE_VARIABLE] = str(near)
    ends.argv = [str(numbers.get(argument, argument)) for argument in ends.argv]
    return ends
