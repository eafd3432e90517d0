"""A mirrored side that hangs: every client is answered by the serving side, and what waits stays within its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, answer
from tests.support.redis_process import running_redis
from tests.support.sides import StubSide, client, get, migration, stub_sides
from tests.support.waiting import until
from tests.support.worker import WorkerProcess, bench

CLIENTS, EACH = 16, 60
BODY = b'"' + b"x" * 50_000 + b'"'
LIMITS = {
    "queue": 100,
    "queue_bytes": 2 << 20,
    "concurrency": 8,
    "deadline_s": 300,
    "waiting_s": 300,
    "noise_percent": 0,
}


@pytest.fixture
async def stubs() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.mark.parametrize("express", ["on", "off"])
async def test_a_mirrored_side_that_hangs_costs_no_client_its_answer_and_no_memory_beyond_the_bounds(
    tmp_path: Path, stubs: dict[Side, StubSide], express: str
) -> None:
    served: list[int] = []
    hanging: list[int] = []

    async def serve(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            served.append(1)
            await peer.send(answer(BODY, b"content-type: application/json"))

    async def hang(peer: Peer) -> None:
        await peer.receive_request()
        hanging.append(1)
        await asyncio.Event().wait()

    stubs[Side.OLD].script, stubs[Side.NEW].script = serve, hang
    content = migration(stubs)
    content["operations"]["item.get"] |= {"stage": "shadow_read", "mirror_percent": 100}
    with running_redis() as redis:
        async with bench(tmp_path, redis.url, content, shadow=LIMITS, express=express) as place:
            place.prepare()
            await place.boot()
            worker = await place.start()
            sides = await asyncio.gather(*(ask(worker) for _ in range(CLIENTS)))
            total = CLIENTS * EACH
            assert [side for answers in sides for side in answers] == [(200, b"old", BODY)] * total
            # Nobody was asked twice for it, and each read is either on its way, or waits, or is counted with a reason.
            assert len(served) == total

            def all_are_accounted_for() -> bool:
                mirror, shadow = worker.counters["mirror"].get("item.get", {}), worker.counters["shadow"]
                return bool(sum(mirror.values()) + shadow["queued"] == total and shadow["running"] == len(hanging))

            await until(all_are_accounted_for, "every read is accounted for")
            shadow = worker.counters["shadow"]
            assert 0 < shadow["running"] <= LIMITS["concurrency"]
            assert 0 < shadow["queued"] <= LIMITS["queue"]
            assert 0 < shadow["held_bytes"] <= LIMITS["queue_bytes"]
            assert worker.counters["mirror"]["item.get"]["queue_full"] > 0


async def ask(worker: WorkerProcess) -> list[tuple[int, bytes, bytes]]:
    """One client's answers: status, who gave it, and what."""
    async with client(worker.port) as c:
        answers = [await c.ask(get("/items/1", "x-key: k")) for _ in range(EACH)]
    return [(found.status, found.headers[b"crossfade-side"], found.body) for found in answers]
