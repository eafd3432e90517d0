"""Answers that say a failure in words count as failures of the side, where the operation declares the code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, answer, chunked_answer
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
    content["operations"]["item.get"]["failure_codes"] = ["internal"]
    content["operations"]["item.get"]["failure_statuses"] = [429, 500]
    async with bench(tmp_path, redis.url, content, express=request.param) as place:
        place.prepare()
        await place.boot()
        yield place


def result(code: str | None) -> bytes:
    said: dict[str, Any] = {"code": code, "message": "m", "retryable": False} if code else {"id": 7}
    content = {
        "content": [{"type": "text", "text": json.dumps(said)}],
        "structuredContent": said,
        "isError": bool(code),
    }
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": content}).encode()


def answers(side: StubSide, response: bytes) -> None:
    async def serve(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(response)

    side.script = serve


CALL = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "item_get", "arguments": {"key": "k"}}}
).encode()


def outcomes(worker: WorkerProcess) -> dict[str, int]:
    cell: dict[str, Any] = worker.counters.get("operations", {}).get("item.get", {}).get("new", {})
    counted: dict[str, int] = cell.get("outcomes", {})
    return counted


@pytest.mark.parametrize(("code", "wanted"), [("internal", {"failure": 2}), ("conflict", {"ok": 2}), (None, {"ok": 2})])
@pytest.mark.parametrize("form", ["whole", "events"])
async def test_over_mcp(
    worker: WorkerProcess, sides: Sides, form: str, code: str | None, wanted: dict[str, int]
) -> None:
    body = result(code)
    if form == "whole":
        answers(sides[Side.NEW], answer(body, b"content-type: application/json"))
    else:
        event = b"event: message\r\ndata: " + body + b"\r\n\r\n"
        pieces = [event[:30], event[30:]]
        answers(sides[Side.NEW], chunked_answer(*pieces, headers=b"content-type: text/event-stream"))
    async with client(worker.port) as c:
        for _ in range(2):
            found = await c.ask(post("/mcp", CALL, "content-type: application/json"))
            assert found.status == 200
    await until(lambda: outcomes(worker) == wanted, "it is counted")


async def test_over_rest_below_500(worker: WorkerProcess, sides: Sides) -> None:
    body = b'{"code": "internal", "message": "m", "retryable": false}'
    response = b"HTTP/1.1 409 x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    answers(sides[Side.NEW], response)
    async with client(worker.port) as c:
        assert (await c.ask(get("/items/1", "x-key: k"))).status == 409
    await until(lambda: outcomes(worker) == {"failure": 1}, "it is counted")


async def test_a_side_that_fails_every_call_in_words_is_taken_out(worker: WorkerProcess, sides: Sides) -> None:
    answers(sides[Side.NEW], answer(result("internal"), b"content-type: application/json"))
    async with client(worker.port) as c:
        while not worker.counters.get("killed"):
            assert (await c.ask(post("/mcp", CALL, "content-type: application/json"))).status == 200
    assert worker.counters["killed"] == ["operation:item.get"]


@pytest.mark.parametrize(("status", "outcome"), [(429, "failure"), (500, "failure"), (501, "client_error")])
async def test_the_statuses_that_blame_a_side_can_be_declared(
    worker: WorkerProcess, sides: Sides, status: int, outcome: str
) -> None:
    answers(sides[Side.NEW], b"HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n" % status)
    async with client(worker.port) as c:
        answer = await c.ask(get("/items/1", "x-key: k"))
    if outcome == "client_error":
        # It is new's answer, and no failure that old would have to make good.
        assert answer.status == status
    await until(lambda: outcomes(worker) == {outcome: 1}, "it is counted")
