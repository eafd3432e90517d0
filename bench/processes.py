"""Processes that are measured: started on a core of their own, ended for sure, their CPU and memory read from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.02

ROOT: Final = Path(__file__).resolve().parents[1]
PROXY_CORE: Final = 0
LOAD_CORE: Final = 1
"""The backend and the clients share one core, the proxy has another for itself."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds."""

    user: float
    system: float

    def __sub__(self, before: Cpu) -> Cpu:
        return Cpu(self.user - before.user, self.system - before.system)

    @property
    def total(self) -> float:
        """Both."""
        return self.user + self.system


def cpu_of(pids: Sequence[int]) -> Cpu:
    """What processes have used so far."""
    user = system = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return Cpu(user / _TICKS_PER_S, system / _TICKS_PER_S)


def rss_mib(pids: Sequence[int]) -> float:
    """Resident size of processes now."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
    return total / 1024


def children_of(pid: int) -> list[int]:
    """The children of a process, which for nginx and HAProxy do the work."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pin(pid: int, core: int) -> None:
    """Keeps a process on a core, where there are as many."""
    if (os.cpu_count() or 1) > core:
        os.sched_setaffinity(pid, {core})


@contextlib.contextmanager
def running(command: Sequence[str], port: int, core: int, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server until the block ends.

    Args:
        command: What to run; it stays in the foreground.
        port: On which it listens when it is ready.
        core: For it and its children.
        cwd: Its working directory.

    Raises:
        RuntimeError: It does not listen.
    """
    log = cwd / f"{Path(command[0]).name}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: pin(0, core),
        )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen on {port}: {log.read_text()[-2000:]}")
            time.sleep(_LOOK_S)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
