"""Reads that new fails are served by old, once, where old can; nobody else is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, RawRequest, answer, chunked_answer
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess, bench

Sides = dict[Side, StubSide]
BROKEN = b"HTTP/1.1 503 broken\r\ncontent-length: 2\r\n\r\nno"


def shared(sides: Sides, **deadline: Any) -> dict[str, Any]:
    content = live(migration(sides), 100)
    content["groups"]["items"]["writes"] = "shared"
    content["operations"]["item.get"] |= deadline
    return content


@pytest.fixture(params=["on", "off"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, sides: Sides, redis: RedisProcess
) -> AsyncIterator[Bench]:
    async with bench(tmp_path, redis.url, shared(sides, deadline_s=3), express=request.param) as place:
        place.prepare({"internal_token": "internal"})
        await place.boot()
        yield place


def answers(side: StubSide, response: bytes) -> None:
    async def serve(peer: Peer) -> None:
        while True:
            request: RawRequest = await peer.receive_request()
            side.requests.append(request)
            await peer.send(response)

    side.script = serve


def outcomes(worker: WorkerProcess, operation: str = "item.get") -> dict[str, dict[str, int]]:
    sides = worker.counters.get("operations", {}).get(operation, {})
    return {side: cell["outcomes"] for side, cell in sides.items() if cell["outcomes"]}


@pytest.mark.parametrize(
    "response",
    [
        BROKEN,
        b"HTTP/1.1 500 x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 500 x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000,
        b"garbage",
        b"",
    ],
)
async def test_a_read_that_new_fails_is_served_by_old(worker: WorkerProcess, sides: Sides, response: bytes) -> None:
    if response:
        answers(sides[Side.NEW], response)
    else:

        async def close(peer: Peer) -> None:
            await peer.receive_request()

        sides[Side.NEW].script = close
    async with client(worker.port) as c:
        for _ in range(3):
            found = await c.ask(get("/items/7?a=b", "x-key: k"))
            assert (found.status, found.body, found.headers[b"crossfade-side"]) == (200, b"old", b"old")
    await until(lambda: outcomes(worker) == {"new": {"failure": 3}, "old": {"ok": 3}}, "both are counted")
    assert worker.counters["saved"] == {"item.get": 3}
    assert [request.line for request in sides[Side.OLD].requests] == [b"GET /items/7?a=b HTTP/1.1"] * 3


async def test_a_read_with_a_body_is_sent_whole(worker: WorkerProcess, place: Bench, sides: Sides) -> None:
    answers(sides[Side.NEW], BROKEN)
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "item_get", "arguments": {"key": "k"}},
    }
    async with client(worker.port) as c:
        found = await c.ask(post("/mcp", json.dumps(call).encode(), "content-type: application/json"))
    assert found.status == 200
    assert sides[Side.OLD].requests[0].body == json.dumps(call).encode()


async def test_a_side_that_is_gone(worker: WorkerProcess, sides: Sides) -> None:
    server = sides[Side.NEW].server
    assert server is not None
    await server.aclose()
    async with client(worker.port) as c:
        assert (await c.ask(get("/items/1", "x-key: k"))).body == b"old"


async def test_what_has_begun_is_cut_and_not_begun_again(worker: WorkerProcess, sides: Sides) -> None:
    answers(sides[Side.NEW], chunked_answer(b"abc")[:-7])

    async def cut(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")

    sides[Side.NEW].script = cut
    async with client(worker.port) as c:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await c.ask(get("/items/1", "x-key: k"))
    assert sides[Side.OLD].requests == []


async def test_writes_and_client_errors_are_not_asked_twice(worker: WorkerProcess, sides: Sides) -> None:
    answers(sides[Side.NEW], BROKEN)
    async with client(worker.port) as c:
        assert (await c.ask(post("/items/1", b"{}", "x-key: k", method="PUT"))).status == 503
        # Its headers name a read, its body a write.
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "item_put", "arguments": {}}}
        lying = ("mcp-method: tools/call", "mcp-name: item_get", "mcp-protocol-version: 2026-07-28", "x-key: k")
        body = json.dumps(call).encode()
        assert (await c.ask(post("/mcp", body, "content-type: application/json", *lying))).status == 503
    assert sides[Side.OLD].requests == []


async def test_old_may_fail_too(worker: WorkerProcess, sides: Sides) -> None:
    for side in sides.values():
        answers(side, BROKEN)
    async with client(worker.port) as c:
        found = await c.ask(get("/items/1", "x-key: k"))
    assert (found.status, found.headers[b"crossfade-side"]) == (503, b"old")
    assert [len(side.requests) for side in sides.values()] == [1, 1]


async def test_the_deadline_is_that_of_the_whole(worker: WorkerProcess, sides: Sides) -> None:
    async def hang(peer: Peer) -> None:
        await peer.receive_request()
        await asyncio.Event().wait()

    sides[Side.NEW].script = hang
    async with client(worker.port) as c:
        assert (await c.ask(get("/items/1", "x-key: k"))).status == 504
    assert sides[Side.OLD].requests == []


@pytest.mark.parametrize("how", ["off", "none"])
async def test_where_it_is_off_and_where_old_does_not_know(place: Bench, sides: Sides, how: str) -> None:
    if how == "off":
        place.settings = {**place.settings, "safety_net": False}
        place.prepare({"internal_token": "internal"})
    else:
        place.migration.write_text(place.migration.read_text().replace('"shared"', '"none"'))
    worker = await place.start()
    answers(sides[Side.NEW], BROKEN)
    async with client(worker.port) as c:
        assert (await c.ask(get("/items/1", "x-key: k"))).status == 503
    assert sides[Side.OLD].requests == []


async def test_a_call_that_fails_in_words_is_asked_of_old_before_the_client_has_a_byte(
    place: Bench, sides: Sides, request: pytest.FixtureRequest
) -> None:
    content = json.loads(place.migration.read_text())
    content["operations"]["item.get"]["failure_codes"] = ["internal"]
    place.migration.write_text(json.dumps(content))
    worker = await place.start()
    said = {"code": "internal", "message": "m", "retryable": False}
    result = {"content": [], "structuredContent": said, "isError": True}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    answers(sides[Side.NEW], answer(body, b"content-type: application/json"))
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "item_get", "arguments": {"key": "k"}},
    }
    async with client(worker.port) as c:
        found = await c.ask(post("/mcp", json.dumps(call).encode(), "content-type: application/json"))
    assert found.status == 200
    # The general lane passes answers on as they come: its client has seen the failure by then.
    if request.node.callspec.params["place"] == "on":
        assert found.headers[b"crossfade-side"] == b"old"
    await until(lambda: outcomes(worker).get("new") == {"failure": 1}, "it counts as new's failure")


async def test_an_operation_may_do_without(place: Bench, sides: Sides) -> None:
    content = json.loads(place.migration.read_text())
    content["operations"]["item.get"]["safety_net"] = False
    place.migration.write_text(json.dumps(content))
    worker = await place.start()
    answers(sides[Side.NEW], BROKEN)
    async with client(worker.port) as c:
        assert (await c.ask(get("/items/1", "x-key: k"))).status == 503
    assert sides[Side.OLD].requests == []


async def test_no_client_sees_an_outage(worker: WorkerProcess, sides: Sides) -> None:
    statuses: list[int] = []

    async def ask() -> None:
        async with client(worker.port) as c:
            while True:
                statuses.append((await c.ask(get("/items/1", "x-key: k"))).status)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    try:
        await until(lambda: len(statuses) > 200, "all is well")
        server = sides[Side.NEW].server
        assert server is not None
        await server.aclose()
        await until(lambda: bool(worker.counters["killed"]), "new is out")
        before = len(statuses)
        await until(lambda: len(statuses) > before + 100, "it goes on")
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert set(statuses) == {200}
