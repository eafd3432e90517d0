"""Every read is counted once, with what became of it, whichever lane it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.model import Side
from tests.integration.shadow.conftest import QUICK, JsonSide, mirrored
from tests.integration.shadow.scene import ask, mirror, started
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, post
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess

READ = get("/items/1", "x-key: k")
Start = Callable[..., Any]


@pytest.fixture(params=["on", "off"], ids=["express", "general"])
def start(request: pytest.FixtureRequest, place: Bench, stubs: dict[Side, StubSide]) -> Start:
    """Starts a worker with one lane; takes what the migration file says besides."""

    async def start(operation: dict[str, Any] | None = None, writes: str = "none", **settings: Any) -> WorkerProcess:
        content = mirrored(stubs)
        content["operations"]["item.get"] |= operation or {}
        content["operations"]["item.find"] |= {"class": "read", "mirror_percent": 100}
        content["groups"]["items"]["writes"] = writes
        return await started(place, content, "counts", express=request.param, shadow=QUICK, **settings)

    return start


def connections(worker: WorkerProcess, side: Side) -> int:
    """On which a request is on its way."""
    found: int = worker.counters.get("sides", {}).get(side, {}).get("connections", {}).get("in_use", 0)
    return found


def hanging(side: JsonSide, before: bytes = b"") -> asyncio.Event:
    """The side answers no more, but with a beginning; the event says that it was asked."""
    asked = asyncio.Event()

    async def hang(peer: Peer) -> None:
        side.stub.requests.append(await peer.receive_request())
        if before:
            await peer.send(before)
        asked.set()
        await asyncio.Event().wait()

    side.stub.script = hang
    return asked


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"], ids=["head", "end"])
async def test_a_client_that_leaves_before_the(start: Start, old: JsonSide, new: JsonSide, before: bytes) -> None:
    worker = await start()
    asked = hanging(old, before)
    async with client(worker.port) as c:
        await c.send(READ)
        await asked.wait()
        if before:
            await c.until(b"abc")
    await until(lambda: mirror(worker) == {"client_gone": 1}, "it is counted", 10)
    assert new.copies == []


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        answer(status=b"500 x"),
        answer(status=b"503 x"),
        answer(status=b"429 x"),
        answer(status=b"408 x"),
    ],
    ids=["garbage", "nothing", "half of it", "broken chunks", "500", "503", "429", "408"],
)
async def test_a_serving_side_that_does_not_serve(start: Start, old: JsonSide, new: JsonSide, said: bytes) -> None:
    worker = await start()

    async def serve(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(said)

    old.stub.script = serve
    async with client(worker.port) as c:
        await c.send(READ)
        await until(lambda: mirror(worker) == {"not_accepted": 1}, "it is counted", 5)
    assert new.copies == []


async def test_a_serving_side_that_answers_in_no_time(start: Start, old: JsonSide, new: JsonSide) -> None:
    worker = await start({"deadline_s": 0.3})
    hanging(old)
    assert await ask(worker, READ) == [504]
    await until(lambda: mirror(worker) == {"not_accepted": 1}, "it is counted", 10)
    assert new.copies == []


async def test_a_serving_side_that_is_not_there(start: Start, old: JsonSide, new: JsonSide) -> None:
    worker = await start()
    assert old.stub.server is not None
    await old.stub.server.__aexit__(None, None, None)
    assert await ask(worker, READ) == [502]
    await until(lambda: mirror(worker) == {"not_accepted": 1}, "it is counted", 10)


@pytest.mark.parametrize("said", [answer(status=b"500 x"), b"garbage\r\n\r\n"], ids=["500", "garbage"])
async def test_a_read_that_new_fails_and_old_serves(start: Start, old: JsonSide, new: JsonSide, said: bytes) -> None:
    worker = await start({"stage": "live", "percent": 100}, "shared")
    new.respond = lambda _: said
    assert await ask(worker, READ) == [200]
    await until(lambda: mirror(worker) == {"not_accepted": 1}, "it is counted", 10)


@pytest.mark.parametrize(("share", "why"), [(0, "not_sampled"), (100, "kill")])
async def test_a_read_that_is_decided_again(
    start: Start, place: Bench, old: JsonSide, new: JsonSide, share: int, why: str
) -> None:
    worker = await start(
        {"stage": "live", "percent": 100, "mirror_percent": share},
        "shared",
        safety_net=False,
        upstream={"connections": 1, "waiting_s": 30},
    )
    let, asked = asyncio.Event(), asyncio.Event()

    async def held(peer: Peer) -> None:
        await peer.receive_request()
        asked.set()
        await let.wait()
        await peer.send(answer(b"{}"))

    new.stub.script = held
    async with client(worker.port) as first, client(worker.port) as second:
        await first.send(READ)
        await asked.wait()
        await second.send(READ)
        await until(lambda: worker.counters["sides"]["new"]["waiting"] == 1, "it waits for a connection")
        (place.data_dir / "KILL").write_text("all\n")
        await until(lambda: worker.counters.get("killed") == ["all"], "the kill is in force")
        let.set()
        answers = [await each.answer() for each in (first, second)]
    assert [got.headers[b"crossfade-side"] for got in answers] == [b"new", b"old"]
    await until(lambda: mirror(worker) == {why: 2}, "each is counted once")
    assert old.copies == []


@pytest.mark.parametrize(
    ("request_bytes", "why"),
    [
        (get("/items/1", "x-key: k", "if-none-match: x"), "conditional"),
        (get("/items/1", "x-key: k", "range: bytes=0-1"), "conditional"),
    ],
)
async def test_a_read_of_one_sides_copy(start: Start, new: JsonSide, request_bytes: bytes, why: str) -> None:
    worker = await start()
    await ask(worker, request_bytes)
    await until(lambda: mirror(worker) == {why: 1}, "it is counted", 10)
    assert new.copies == []


async def test_a_read_that_is_not_in_the_sample(start: Start, new: JsonSide) -> None:
    worker = await start({"mirror_percent": 0})
    await ask(worker, READ, READ)
    await until(lambda: mirror(worker) == {"not_sampled": 2}, "they are counted", 10)


async def test_a_body_that_is_passed_on_as_it_comes(start: Start, new: JsonSide) -> None:
    worker = await start()
    chunked = post("/find", b"", "x-key: k", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
    async with client(worker.port) as c:
        await c.send(chunked + b"1\r\n{\r\n")
        await until(lambda: connections(worker, Side.OLD) == 1, "it is on its way", 5)
        await c.send(b"1\r\n}\r\n0\r\n\r\n")
        assert (await c.answer()).status == 200
    await until(lambda: mirror(worker, "item.find") == {"streaming": 1}, "it is counted", 5)
    assert new.copies == []


async def test_an_answer_that_is_too_large(start: Start, old: JsonSide, new: JsonSide) -> None:
    worker = await start()
    old.content = "x" * (2 << 20)
    await ask(worker, READ)
    await until(lambda: mirror(worker) == {"too_large": 1}, "it is counted", 10)
    assert new.copies == []
