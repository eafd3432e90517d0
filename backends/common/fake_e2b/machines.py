"""The sandboxes: directories with processes, a time to live, and the troubles of a real cloud."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_DEFAULT_LIFE_S: Final = 300.0
_POLL_S: Final = 0.02


@dataclass
class Troubles:
    """What goes wrong, or takes time, as with the real one.

    Attributes:
        create_s: A creation takes so long.
        creations_per_s: More are answered 429 with Retry-After; None = any number.
        lost_creations: So many of the next creations succeed, and their answer is a 504.
        deaths: So many of the next commands end with the death of their sandbox.
        held_starts: So many of the next commands begin only when they are let go.
    """

    create_s: float = 0.0
    creations_per_s: float | None = None
    lost_creations: int = 0
    deaths: int = 0
    held_starts: int = 0


@dataclass(eq=False)
class Machine:
    """One sandbox.

    Attributes:
        sandbox_id: Names it.
        home: Its directory; `HOME` of its commands.
        metadata: As it was created with.
        envs: Variables of all its commands.
        started_at: Unix seconds.
        ends_at: Unix seconds; it is gone then.
        processes: That run, by their number.
    """

    sandbox_id: str
    home: Path
    metadata: Mapping[str, str]
    envs: Mapping[str, str]
    started_at: float
    ends_at: float
    template: str = "base"
    processes: dict[int, Process] = field(default_factory=dict)

    async def start(
        self, program: str, arguments: list[str], envs: Mapping[str, str], cwd: str, *, stdin: bool
    ) -> Process:
        """Starts a process.

        Raises:
            OSError: It cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            cwd=self.path(cwd) if cwd else self.home,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.home), **self.envs, **envs},
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        self.processes[process.pid] = process
        return process

    def path(self, path: str) -> Path:
        """A path of the sandbox on this machine; relative ones begin at its home."""
        return self.home / path

    def end(self) -> None:
        """Kills what runs and removes what is there."""
        for pid in list(self.processes):
            signal_group(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)


class Cloud:
    """All sandboxes of a server.

    Attributes:
        streams: What is said to those who wait for a command.
        let_go: Held commands may begin.
        started: How many commands began.
        last_creation: What was asked for last.
    """

    def __init__(self, root: Path, troubles: Troubles | None = None) -> None:
        """Makes the directory.

        Args:
            root: Where sandboxes lie.
            troubles: May be changed at any time.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.troubles = troubles or Troubles()
        self.streams: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self.let_go = asyncio.Event()
        self.started = 0
        self.last_creation: dict[str, Any] = {}
        self._root = root
        self._machines: dict[str, Machine] = {}
        self._by_key: dict[str, str] = {}
        self._created_at: list[float] = []

    async def hold(self) -> None:
        """Returns when a command may begin."""
        if self.troubles.held_starts > 0:
            self.troubles.held_starts -= 1
            self.let_go.clear()
            await self.let_go.wait()

    def cut(self) -> None:
        """Breaks the connections over which somebody hears of a command. The commands go on."""
        for stream in list(self.streams):
            stream.put_nowait({"cut": True})

    @property
    def running(self) -> int:
        """Commands that run."""
        return sum(len(machine.processes) for machine in self._machines.values())

    def get(self, sandbox_id: str) -> Machine | None:
        """A sandbox that lives, or None."""
        self._bury()
        return self._machines.get(sandbox_id)

    def all(self) -> list[Machine]:
        """Those that live, oldest first."""
        self._bury()
        return sorted(self._machines.values(), key=lambda machine: machine.started_at)

    def must_wait_s(self) -> float:
        """How long until a creation is allowed; 0 = now."""
        rate = self.troubles.creations_per_s
        if rate is None:
            return 0.0
        now = time.monotonic()
        self._created_at = [at for at in self._created_at if now - at < 1.0]
        return 0.0 if len(self._created_at) < rate else 1.0 - (now - self._created_at[0])

    async def create(
        self, key: str | None, metadata: Mapping[str, str], envs: Mapping[str, str], life_s: float | None, template: str
    ) -> Machine:
        """A sandbox; for the same key the same one, while it lives."""
        known = self.get(self._by_key.get(key or "", ""))
        if known is not None:
            return known
        self._created_at.append(time.monotonic())
        now = time.time()
        sandbox_id = f"i{secrets.token_hex(10)}"
        if key:
            self._by_key[key] = sandbox_id
        home = self._root / sandbox_id
        home.mkdir(mode=0o700)
        machine = Machine(sandbox_id, home, metadata, envs, now, now + (life_s or _DEFAULT_LIFE_S), template)
        self._machines[sandbox_id] = machine
        # It is there from now on, also for whoever does not wait for the answer. Less trouble shortens a wait.
        begun = time.monotonic()
        while (left_s := begun + self.troubles.create_s - time.monotonic()) > 0:  # noqa: ASYNC110 - a time, not an event
            await asyncio.sleep(min(left_s, _POLL_S))
        return machine

    def kill(self, sandbox_id: str) -> bool:
        """Whether it was there."""
        machine = self._machines.pop(sandbox_id, None)
        if machine is None:
            return False
        machine.end()
        return True

    def close(self) -> None:
        """Ends all."""
        for sandbox_id in list(self._machines):
            self.kill(sandbox_id)

    def _bury(self) -> None:
        now = time.time()
        for machine in list(self._machines.values()):
            if machine.ends_at <= now:
                self.kill(machine.sandbox_id)


def signal_group(pid: int, number: int) -> None:
    """Signals a process and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
