"""A real `crossfade up` (or `crossfade gateway`) on free ports, in a directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 120.0
"""Generous: seven interpreters start on a machine that others use."""

Content = Mapping[str, Any]


@dataclass
class Up:
    """A supervisor and what it wrote.

    Attributes:
        process: The supervisor.
        data_dir: Its data directory.
        output: Holds what it and its parts wrote to standard error.
        printed: Holds what it wrote to standard output.
    """

    process: subprocess.Popen[bytes]
    data_dir: Path
    output: Path
    printed: Path

    @property
    def runtime(self) -> dict[str, Any]:
        """runtime.json as it is now."""
        content: dict[str, Any] = json.loads((self.data_dir / "runtime.json").read_text())
        return content

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, as runtime.json has them now."""
        pids: dict[str, int] = self.runtime["pids"]
        return pids

    @property
    def token(self) -> str:
        """The approver's token that it made."""
        return Path(self.runtime["token_file"]).read_text().strip()

    def edit_migration(self, before: str, after: str) -> None:
        """Edits the migration file as an operator would."""
        file = Path(self.runtime["migration_file"])
        content = file.read_text()
        assert before in content
        file.write_text(content.replace(before, after))

    def port(self, name: str) -> int:
        """Of `gateway`, `control`, `ops`, `old` or `new`."""
        url: str = self.runtime[name]
        port = urlsplit(url).port
        assert port is not None
        return port

    async def ready(self) -> None:
        """Waits until runtime.json is written.

        Raises:
            AssertionError: It ended instead.
        """
        await until(lambda: self._is_ready() or self.process.poll() is not None, "crossfade is ready", START_LIMIT_S)
        assert self.process.poll() is None, self.output.read_text()

    async def ended(self) -> int:
        """Waits for the end of the supervisor; its exit code."""
        await until(lambda: self.process.poll() is not None, "crossfade ends", START_LIMIT_S)
        code = self.process.returncode
        assert code is not None
        return code

    def signal(self, sign: signal.Signals) -> None:
        """Signals the supervisor."""
        self.process.send_signal(sign)

    async def status(self) -> dict[str, Any]:
        """What /readyz shows, and its status code as `code`."""
        async with httpx.AsyncClient(base_url=self.runtime["ops"], timeout=30, trust_env=False) as client:
            answer = await client.get("/readyz")
            return {"code": answer.status_code, **answer.json()}

    async def metric(self, *beginnings: str) -> float:
        """Sum of all samples whose line begins so."""
        async with httpx.AsyncClient(base_url=self.runtime["ops"], timeout=30, trust_env=False) as client:
            lines = (await client.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(beginnings))

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self.pids.get("supervisor") == self.process.pid
        return False


def start(
    data_dir: Path, migration: Content | Path | None, *options: str, env: Mapping[str, str], command: str = "up"
) -> Up:
    """Starts the command and waits for nothing. Whoever calls ends it."""
    home = data_dir.parent
    home.mkdir(parents=True, exist_ok=True)
    arguments: list[str] = [command, "--data-dir", str(data_dir), "--port", "0", "--ops-port", "0"]
    if command == "up":
        arguments += ["--control-port", "0"]
    if isinstance(migration, Path):
        arguments += ["--migration", str(migration)]
    elif migration is not None:
        file = home / f"{data_dir.name}.migration.yaml"
        file.write_text(json.dumps(migration))  # JSON is YAML
        arguments += ["--migration", str(file)]
    output, printed = home / f"{data_dir.name}.stderr", home / f"{data_dir.name}.stdout"
    with output.open("ab") as stderr, printed.open("ab") as stdout:
        process = subprocess.Popen(
            [*crossfade(), *arguments, *options],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=ROOT,
            # Beside the data directory, so that nothing is left elsewhere; a test that runs git as root names a place
            # that other users can reach.
            env={**_bare_environment(), "CROSSFADE_SANDBOX_ROOT": str(home / "sandboxes"), **env},
            start_new_session=True,
        )
    return Up(process, data_dir, output, printed)


@asynccontextmanager
async def running_up(
    data_dir: Path,
    migration: Content | Path | None = None,
    *options: str,
    env: Mapping[str, str] | None = None,
    command: str = "up",
) -> AsyncIterator[Up]:
    """Runs the command, ready, and leaves nothing of it.

    Args:
        data_dir: Made if need be; logs and the migration file stand beside it.
        migration: A file, its content as plain data, or None for the shipped one.
        options: More of the command line, for example `--workers 1`.
        env: Added to a bare environment.
        command: `up` or `gateway`.
    """
    up = start(data_dir, migration, *options, env=env or {}, command=command)
    pids: set[int] = set()
    try:
        await up.ready()
        pids |= set(up.pids.values())
        yield up
    finally:
        with contextlib.suppress(OSError, ValueError):
            pids |= set(up.pids.values())
        if up.process.poll() is None:
            up.process.terminate()
            with contextlib.suppress(AssertionError):
                await up.ended()
            up.process.kill()
        up.process.wait()
        await until(lambda: not any(map(is_alive, pids)), "every part ends")


def run_to_end(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command of the CLI that ends by itself."""
    return subprocess.run(
        [*crossfade(), *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**_bare_environment(), **(env or {})},
        timeout=START_LIMIT_S,
        check=False,
    )


def crossfade() -> list[str]:
    """The program, as it is installed."""
    return [str(Path(sys.executable).parent / "crossfade")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Process ids of those whose parent a process is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(process.name))
    return found


def shown_by(pid: int) -> str:
    """What everybody who may look at a process sees of it: arguments, and for its own user the environment."""
    process = Path(f"/proc/{pid}")
    return (process / "cmdline").read_text() + (process / "environ").read_text()


def _bare_environment() -> dict[str, str]:
    """Ours, without settings of Crossfade that the machine may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CROSSFADE_")}
