"""Whatever the mirrored side does: it is counted, and costs the client nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal

import pytest

from gateway.core.model import Side
from tests.integration.shadow.conftest import QUICK, JsonSide, mirrored
from tests.integration.shadow.scene import JSON, ask, children, compared, mirror, shadow, started
from tests.support.raw_upstream import Peer, RawRequest, answer
from tests.support.sides import StubSide, client, get
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess

READ = get("/items/1", "x-key: k")
GZIP = b"content-encoding: gzip"


async def test_answers_that_unpack_to_millions_of_values_cost_no_other_pair(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    bomb = gzip.compress(b"[" + b"{}," * (5 << 20) + b"{}]")
    assert len(bomb) < 20_000

    def told(request: RawRequest, body: bytes) -> bytes:
        return answer(bomb, JSON, GZIP) if b"/bomb " in request.line else answer(body, JSON)

    old.respond = lambda request: told(request, b'{"a": 1, "b": 2}')
    # Equal bytes would match at once.
    second = gzip.compress(b"[" + b"{}," * (5 << 20) + b"{} ]")
    new.respond = lambda request: (
        answer(second, JSON, GZIP) if b"/bomb " in request.line else told(request, b'{"b": 2, "a": 1}')
    )
    await ask(worker, *(get("/items/bomb", "x-key: k") if number % 10 == 0 else READ for number in range(50)))
    await until(lambda: sum(compared(worker).values()) == 50, "all are judged")
    assert compared(worker) == {"match": 45, "incomparable:undecodable": 5}
    assert mirror(worker) == {"sent": 50}


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "incomparable:candidate_error"),
        (b"", "incomparable:candidate_error"),
        (answer(b'{"a": 1}', b"content-type: text/html"), "suspected"),
        (answer(b'{"a": ', JSON), "suspected"),
        (answer(b"[" * 10_000 + b"]" * 10_000, JSON), "suspected"),
        (answer(b'{"a": 1, "a": 1}', JSON), "suspected"),
        (answer(b'{"a": NaN}', JSON), "suspected"),
        (answer(b"\xff\xfe", JSON), "suspected"),
        (answer(gzip.compress(b'{"a": 1}')[:-4], JSON, GZIP), "suspected"),
        (answer(gzip.compress(b'{"a": 1}'), JSON, GZIP), "match"),
    ],
    ids=["half of it", "nothing", "another type", "truncated", "deep", "a member twice", "NaN", "no UTF-8",
         "truncated gzip", "gzip"],
)  # fmt: skip
async def test_the_mirrored_side_says(
    worker: WorkerProcess, old: JsonSide, new: JsonSide, said: bytes, result: str
) -> None:
    async def serve(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(said)
            if result == "incomparable:candidate_error":
                return

    new.stub.script = serve
    assert await ask(worker, READ) == [200]
    await until(lambda: compared(worker).get(result) == 1, f"it is {result}")


async def test_a_side_that_hangs_is_seen_long_before_its_deadline(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    let = asyncio.Event()
    let.set()

    async def serve(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await let.wait()
            await peer.send(answer(b'{"a": 1}', JSON))

    new.stub.script = serve
    await ask(worker, *(READ for _ in range(20)))
    await until(lambda: compared(worker) == {"match": 20}, "it is quick")
    assert shadow(worker)["cap_new"] >= 8
    let.clear()

    async def is_shed() -> None:
        while shadow(worker)["cap_new"] > 1:
            assert set(await ask(worker, *(READ for _ in range(20)))) == {200}

    async with asyncio.timeout(20):
        await is_shed()
    let.set()
    await until(lambda: shadow(worker)["running"] == 0, "it is back")


async def test_copies_that_wait_too_long_are_let_go(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    worker = await started(place, mirrored(stubs), "late", shadow={**QUICK, "concurrency": 1, "waiting_s": 0.2})

    async def hang(peer: Peer) -> None:
        await peer.receive_request()
        await asyncio.Event().wait()

    new.stub.script = hang
    await ask(worker, READ, READ)

    async def is_let_go() -> None:
        while "too_late" not in mirror(worker):
            await ask(worker, READ)

    async with asyncio.timeout(20):
        await is_let_go()


async def test_the_process_that_compares_is_killed_under_load(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    old.respond = lambda _: answer(b'{"at": 1, "v": 1}', JSON)
    new.respond = lambda _: answer(b'{"v": 1, "at": 1}', JSON)
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"match": 1}, "it compares")
    kills = 3

    async def load() -> set[int]:
        async with client(worker.port) as c:
            return {(await c.ask(READ)).status for _ in range(200)}

    async def killing() -> None:
        killed: set[int] = set()
        while len(killed) < kills:
            fresh = set(children(worker.process.pid)) - killed
            for pid in fresh:
                before = sum(compared(worker).values())
                await until(lambda: sum(compared(worker).values()) > before or load_done.is_set(), "it is at work")  # noqa: B023
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            await until(lambda: set(children(worker.process.pid)) - killed, "it is back")

    load_done = asyncio.Event()
    killer = asyncio.create_task(killing())
    statuses = await asyncio.gather(*(load() for _ in range(8)))
    load_done.set()
    await killer
    assert set.union(*statuses) == {200}
    total = 1 + 8 * 200

    def counted() -> int:
        return compared(worker).get("match", 0) + sum(n for why, n in mirror(worker).items() if why != "sent")

    await until(lambda: counted() == total, "every read is counted")
    assert mirror(worker).get("comparison_lost", 0) <= kills
    assert json.dumps(compared(worker)).count("mismatch") == 0
