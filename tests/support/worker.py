"""A real gateway worker process in front of stub sides, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gateway.channel import Channel, Message, open_channel
from gateway.core.audit import AuditEntry
from gateway.core.file_changes import initial_policy
from gateway.core.model import Policy
from gateway.parts import Parts
from gateway.settings import load_migration
from gateway.state.connect import connect
from gateway.state.policy_store import PolicyStore
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def bound_socket(port: int = 0) -> socket.socket:
    """A bound loopback socket as the supervisor makes them: one port may have several."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


@dataclass
class WorkerProcess:
    """One worker.

    Attributes:
        port: Its data port.
        process: The process.
        channel: The supervisor's end.
        counters: What it reported last.
        ready: Set once it serves and has a policy.
    """

    port: int
    process: subprocess.Popen[bytes]
    channel: Channel
    counters: dict[str, Any] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Notes what the worker says until it is gone."""
        async for message in self.channel.messages():
            self._note(message)

    def _note(self, message: Message) -> None:
        if message["type"] == "ready":
            self.ready.set()
        elif message["type"] == "counters":
            self.counters = message["counters"]


@dataclass
class Bench:
    """A place where workers run: one migration file, one data directory, one Redis."""

    data_dir: Path
    redis_url: str
    migration: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def prepare(self, secrets: Mapping[str, str] | None = None) -> None:
        """Writes the files that a supervisor would have written."""
        files = {}
        for name, secret in (secrets or {}).items():
            path = self.data_dir / name
            path.write_text(secret)
            files[f"{name}_file"] = str(path)
        parts = Parts(
            data_dir=str(self.data_dir), redis_url=self.redis_url, settings=self.settings, **cast("Any", files)
        )
        parts.migration_pointer.write_text(str(self.migration))
        parts.write(self.data_dir / "parts.json")

    async def boot(self) -> Policy:
        """Puts the file's policy into Redis, as control would at the first start."""
        loaded = load_migration(self.migration)
        policy = initial_policy(loaded.definition, loaded.policy, "lineage")
        redis = connect(self.redis_url)
        try:
            await PolicyStore(redis, loaded.definition.migration).boot(policy, _ENTRY)
        finally:
            await redis.aclose()
        return policy

    async def start(
        self, name: str = "gateway-0", *, sock: socket.socket | None = None, ready: bool = True
    ) -> WorkerProcess:
        """Starts a worker and waits until it is ready."""
        own = sock or bound_socket()
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(  # noqa: ASYNC220 - starting takes a millisecond, and pids are wanted
            [
                *(sys.executable, "-m", "gateway.worker", "--parts", str(self.data_dir / "parts.json")),
                *("--name", name, "--fd", str(own.fileno()), "--channel-fd", str(theirs.fileno())),
            ],
            pass_fds=(own.fileno(), theirs.fileno()),
            cwd=ROOT,
            start_new_session=True,
        )
        theirs.close()
        port = own.getsockname()[1]
        if sock is None:
            own.close()
        worker = WorkerProcess(port, process, await open_channel(ours))
        self.workers.append(worker)
        self.tasks.append(asyncio.create_task(worker.listen()))
        if ready:
            async with asyncio.timeout(30):
                await worker.ready.wait()
        return worker

    async def aclose(self) -> None:
        """Ends every worker."""
        for worker in self.workers:
            if worker.process.poll() is None:
                os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
            worker.channel.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def ended(worker: WorkerProcess) -> int:
    """Waits for the process to end; returns its exit code."""
    await until(lambda: worker.process.poll() is not None, "the worker ends")
    code = worker.process.returncode
    assert code is not None
    return code


@asynccontextmanager
async def bench(data_dir: Path, redis_url: str, migration: Mapping[str, Any], **settings: Any) -> AsyncIterator[Bench]:
    """A bench that is cleaned up. The migration is given as plain data: JSON is YAML."""
    file = data_dir / "migration.yaml"
    file.write_text(json.dumps(migration))
    place = Bench(data_dir, redis_url, file, settings)
    try:
        yield place
    finally:
        await place.aclose()


_ENTRY = AuditEntry("test", "", "boot", "", "", {}, "", "2026-01-02T03:04:05Z")
