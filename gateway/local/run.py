"""Runs a prepared machine to its end: supervisor, ops port, runtime file, signals.

SIGINT and SIGTERM stop it, a second one at once; SIGHUP has the parts reload, or stops it when it comes from a terminal
that was closed; SIGUSR2 is a rolling restart.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from gateway.errors import CrossfadeError
from gateway.local import runtime_file
from gateway.local.data_dir import DataDir
from gateway.local.ops import OpsServer
from gateway.local.plan import PartSpec
from gateway.local.supervisor import Plan, Supervisor
from gateway.local.tasks import Tasks

_SAMPLE_S: Final = 1.0
_STDERR: Final = 2

_log = structlog.get_logger("crossfade.supervisor")


class Metrics(Protocol):
    """Takes reports of gateway workers and renders them."""

    def take(self, blob: Mapping[str, Any]) -> None:
        """Notes the counters of a worker."""
        ...

    def sample(self, now: float) -> None:
        """Marks the beginning of a window; called on a timer."""
        ...

    def render(self) -> bytes:
        """The Prometheus text."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that one supervisor runs.

    Attributes:
        data_dir: Locked by us.
        stages: The parts, bottom first.
        rolling: The parts that a rolling restart replaces.
        facts: What runtime.json says besides `version` and `pids`.
        look_again: Called in a thread before the parts are told to reload: the facts as they will be. Raises
            CrossfadeError when the parts had better keep what they have.
        ops: Socket of the ops port.
        metrics: For the ops port.
        clean_up: Called when everything has stopped.
    """

    data_dir: DataDir
    stages: Sequence[Sequence[PartSpec]]
    rolling: Sequence[str]
    facts: Mapping[str, Any]
    look_again: Callable[[], Mapping[str, Any]]
    ops: socket.socket
    metrics: Metrics
    clean_up: Callable[[], None]


async def run_machine(machine: Machine, when_ready: Callable[[], None]) -> None:
    """Runs until SIGINT or SIGTERM; then nothing is left.

    Args:
        machine: What to run.
        when_ready: Called once, when every part is ready and runtime.json is written.

    Raises:
        StartError: A part does not start. Nothing is left running either.
    """
    await _Run(machine).to_its_end(when_ready)


@dataclass(slots=True)
class _Act:
    """What a signal set off, for whoever sent it and waits: shown by /readyz."""

    count: int = 0
    state: str = "none"
    why: str | None = None

    def begin(self) -> bool:
        """Begins another one. False while one is under way."""
        if self.state == "running":
            return False
        self.count, self.state, self.why = self.count + 1, "running", None
        return True

    def end(self, why: str | None) -> None:
        self.state, self.why = "failed" if why else "done", why

    def shown(self) -> dict[str, Any]:
        return {"count": self.count, "state": self.state, "why": self.why}


class _Run:
    """One run of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._facts = machine.facts
        self._supervisor = Supervisor(
            Plan(machine.stages, machine.rolling, self._write_runtime, machine.metrics.take),
        )
        self._ops = OpsServer(self._status, machine.metrics.render)
        self._tasks = Tasks()
        self._reloading = _Act()
        self._must_reload_again = False
        self._rolling = _Act()
        self._stop = asyncio.Event()
        self._is_complete = False
        self._had_terminal = os.isatty(_STDERR)

    async def to_its_end(self, when_ready: Callable[[], None]) -> None:
        machine = self._machine
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_restart)
        serving = asyncio.create_task(self._ops.run_on(machine.ops))
        self._tasks.start(self._sample())
        try:
            await self._start()
            if self._is_complete:
                self._write_runtime()
                when_ready()
                await self._stop.wait()
        finally:
            self._stop.set()
            await self._supervisor.stop()
            await self._tasks.aclose()
            self._ops.should_exit = True
            await serving
            machine.data_dir.remove(runtime_file.NAME)
            machine.clean_up()
            machine.data_dir.close()

    async def _start(self) -> None:
        starting = asyncio.create_task(self._supervisor.start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop.is_set():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        else:
            await starting
            self._is_complete = True

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._supervisor.kill_all()
        self._stop.set()

    def _on_reload(self) -> None:
        if self._had_terminal and not os.isatty(_STDERR):
            # The terminal was closed, and its SIGHUP asks for no reload: nobody could stop us by Ctrl-C any more.
            self._on_stop()
        elif self._reloading.begin():
            self._tasks.start(self._reload())
        else:
            # The file may have changed since it was read.
            self._must_reload_again = True

    def _on_restart(self) -> None:
        if self._rolling.begin():
            self._tasks.start(self._restart())

    async def _reload(self) -> None:
        why = None
        try:
            self._facts = await asyncio.to_thread(self._machine.look_again)
        except CrossfadeError as exc:
            why = str(exc)
            _log.error("reload_refused", why=why)
        else:
            _log.info("reload", parts=self._supervisor.send({"type": "reload"}))
            self._write_runtime()
        self._reloading.end(why)
        if self._must_reload_again:
            self._must_reload_again = False
            self._on_reload()

    async def _restart(self) -> None:
        self._rolling.end(await self._supervisor.restart())

    async def _sample(self) -> None:
        while True:
            self._machine.metrics.sample(time.monotonic())
            await asyncio.sleep(_SAMPLE_S)

    def _status(self) -> dict[str, Any]:
        return {
            "ready": self._is_complete and self._supervisor.is_ready and not self._stop.is_set(),
            "parts": self._supervisor.status(),
            "reload": self._reloading.shown(),
            "rolling_restart": self._rolling.shown(),
        }

    def _write_runtime(self) -> None:
        if self._is_complete and not self._stop.is_set():
            try:
                runtime_file.write_runtime(self._machine.data_dir, self._facts, self._supervisor.pids())
            except OSError as exc:
                _log.error("runtime_file_not_written", why=exc.strerror)  # a full disk must not end what serves
