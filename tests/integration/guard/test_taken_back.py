"""Reads that hang on new when it is taken out are answered by old; what is a write, or has begun, is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, RawRequest
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess, bench

Sides = dict[Side, StubSide]


@pytest.fixture(params=["on", "off"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, sides: Sides, redis: RedisProcess
) -> AsyncIterator[Bench]:
    content = live(migration(sides), 100)
    async with bench(tmp_path, redis.url, content, express=request.param) as place:
        place.prepare()
        await place.boot()
        yield place


@pytest.fixture
def asked(sides: Sides) -> list[RawRequest]:
    """New takes requests and never answers; what it was asked."""
    found: list[RawRequest] = []

    async def hang(peer: Peer) -> None:
        found.append(await peer.receive_request())
        await asyncio.Event().wait()

    sides[Side.NEW].script = hang
    return found


def kill(place: Bench) -> None:
    (place.data_dir / "KILL").write_text("all\n")


async def test_a_read_that_hangs_is_answered_by_old(
    worker: WorkerProcess, place: Bench, sides: Sides, asked: list[RawRequest]
) -> None:
    async with client(worker.port) as c:
        answer = asyncio.create_task(c.ask(get("/items/7?a=b", "x-key: k")))
        await until(lambda: len(asked) == 1, "new was asked")
        kill(place)
        found = await answer
    assert (found.status, found.body, found.headers[b"crossfade-side"]) == (200, b"old", b"old")
    assert [request.line for request in sides[Side.OLD].requests] == [b"GET /items/7?a=b HTTP/1.1"]
    await until(lambda: worker.counters["saved"] == {"item.get": 1}, "it is counted")


async def test_a_write_that_hangs_ends_there(
    worker: WorkerProcess, place: Bench, sides: Sides, asked: list[RawRequest]
) -> None:
    async with client(worker.port) as writing, client(worker.port) as reading:
        write = asyncio.create_task(writing.ask(post("/items/1", b"{}", "x-key: k", method="PUT")))
        await until(lambda: len(asked) == 1, "new was asked")
        read = asyncio.create_task(reading.ask(get("/items/1", "x-key: k")))
        await until(lambda: len(asked) == 2, "new was asked")
        kill(place)
        assert (await read).body == b"old"
        assert not write.done()
        assert [request.line for request in sides[Side.OLD].requests] == [b"GET /items/1 HTTP/1.1"]
        write.cancel()


async def test_what_has_begun_goes_on(worker: WorkerProcess, place: Bench, sides: Sides) -> None:
    has_begun, goes_on = asyncio.Event(), asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
        has_begun.set()
        await goes_on.wait()
        await peer.send(b"def")

    sides[Side.NEW].script = answer
    async with client(worker.port) as begun, client(worker.port) as other:
        asking = asyncio.create_task(begun.ask(get("/items/1", "x-key: k")))
        await has_begun.wait()
        kill(place)
        await until(lambda: bool(worker.counters["killed"]), "new is out")
        assert (await other.ask(get("/items/2", "x-key: k"))).body == b"old"
        goes_on.set()
        assert (await asking).body == b"abcdef"
