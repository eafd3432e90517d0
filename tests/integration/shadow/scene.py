"""What tests of the shadow ask a worker, and what they read of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core.audit import AuditEntry
from gateway.core.model import OperationPolicy, Ppm, Stage
from gateway.state.connect import connect
from gateway.state.policy_store import PolicyStore
from tests.support.sides import client
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess

JSON = b"content-type: application/json"
_ENTRY = AuditEntry("ada", "approver", "stage", "items", "test", {}, "r", "2026-01-02T03:04:05Z")


def mirror(worker: WorkerProcess, operation: str = "item.get") -> dict[str, int]:
    """What became of an operation's reads before they were compared."""
    found: dict[str, int] = worker.counters.get("mirror", {}).get(operation, {})
    return found


def compared(worker: WorkerProcess, operation: str = "item.get") -> dict[str, int]:
    """What became of its pairs."""
    found: dict[str, int] = worker.counters.get("comparisons", {}).get(operation, {})
    return found


def shadow(worker: WorkerProcess) -> dict[str, int]:
    """What the shadow holds now."""
    found: dict[str, int] = worker.counters.get("shadow", {})
    return found


async def ask(worker: WorkerProcess, *requests: bytes) -> list[int]:
    """Asks on one connection; returns the statuses."""
    async with client(worker.port) as c:
        return [(await c.ask(request)).status for request in requests]


async def started(place: Bench, content: Mapping[str, Any], name: str, **settings: Any) -> WorkerProcess:
    """A worker of another migration, with other settings."""
    place.migration.write_text(json.dumps({**content, "migration": name}))
    place.settings = {**place.settings, **settings}
    place.prepare({"internal_token": "internal", "force_secret": "force"})
    await place.boot()
    return await place.start()


async def moved(
    place: Bench, worker: WorkerProcess, migration: str, stage: Stage, percent: int = 0, mirrored: int = 1_000_000
) -> None:
    """Puts every operation into a stage; returns when the worker decides by it."""
    redis = connect(place.redis_url)
    try:
        store = PolicyStore(redis, migration)
        before = await store.read()
        assert before is not None
        operations = {name: OperationPolicy(stage, Ppm(percent), Ppm(mirrored)) for name in before.operations}
        after = await store.change(before, replace(before, operations=operations), _ENTRY)
    finally:
        await redis.aclose()
    await until(lambda: worker.counters.get("epoch") == after.epoch, "the worker decides by it")


def children(pid: int) -> list[int]:
    """Its child processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def resident_bytes(pid: int) -> int:
    """Memory that a process takes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
