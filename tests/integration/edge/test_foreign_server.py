"""The lane as a plain ASGI application under a server that is not ours: stock uvicorn."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from gateway.core.file_changes import initial_policy
from gateway.core.model import Side
from gateway.core.snapshot import compile_snapshot
from gateway.edge.general import GeneralLane
from gateway.edge.plane import LaneClock, LaneSettings, Plane
from gateway.settings.load import load_migration
from gateway.telemetry.counters import RequestCounters
from gateway.upstream import SideUpstream
from tests.integration.edge.scene import Source
from tests.support.raw_upstream import Peer, Script, answer, chunked_answer
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until
from tests.support.worker import bound_socket


class Foreign:
    """A lane under stock uvicorn."""

    def __init__(self, port: int, lane: GeneralLane, counters: RequestCounters, sides: dict[Side, StubSide]) -> None:
        self.port = port
        self.lane = lane
        self.counters = counters
        self.sides = sides

    def script(self, script: Script) -> None:
        for side in self.sides.values():
            side.script = script

    def outcomes(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for sides in self.counters.blob()["operations"].values():
            for cell in sides.values():
                for outcome, count in cell["outcomes"].items():
                    total[outcome] = total.get(outcome, 0) + count
        return total


@asynccontextmanager
async def foreign(directory: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Foreign]:
    file = directory / "migration.yaml"
    file.write_text(json.dumps(live(migration(sides), 50)))
    loaded = load_migration(file)
    snapshot = compile_snapshot(loaded.definition, initial_policy(loaded.definition, loaded.policy, "lineage"))
    counters = RequestCounters()
    upstreams = {side: SideUpstream(loaded.definition.sides[side]) for side in Side}
    clock = LaneClock(
        asyncio.get_running_loop().time,
        time.time,
        lambda: b"Thu, 01 Jan 2026 00:00:00 GMT",
        random.Random(7).getrandbits,
    )
    lane = GeneralLane(Plane(Source(snapshot), upstreams, counters, LaneSettings(auth=b"internal"), clock))
    sock = bound_socket()
    server = uvicorn.Server(
        uvicorn.Config(lane, log_config=None, lifespan="off", date_header=False, server_header=False, ws="none")
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    await until(lambda: server.started)
    try:
        yield Foreign(sock.getsockname()[1], lane, counters, sides)
    finally:
        server.should_exit = server.force_exit = True
        await serving
        for upstream in upstreams.values():
            await upstream.aclose()


@pytest.fixture
async def plane(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Foreign]:
    async with foreign(tmp_path, sides) as running:
        yield running


async def test_requests_and_answers_pass_on_one_connection(plane: Foreign) -> None:
    async with client(plane.port) as c:
        for n in range(3):
            got = await c.ask(get(f"/items/{n}?a=%2F&b", "x-key: a"))
            assert (got.status, got.headers[b"crossfade-side"]) == (200, got.body)
            assert (await c.ask(post("/find", b"x" * 5000, "x-key: a"))).status == 200
            assert (await c.ask(post("/mcp", b"{"))).json()["error"]["code"] == -32700
            assert (await c.ask(get("/v1/workspaces"))).status == 404
    lines = [request.line for side in plane.sides.values() for request in side.requests]
    assert b"GET /items/2?a=%2F&b HTTP/1.1" in lines
    assert {request.body for side in plane.sides.values() for request in side.requests} == {b"", b"x" * 5000}


@pytest.mark.parametrize(
    ("method", "said", "status", "body"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        ("GET", b'HTTP/1.1 304 Not Modified\r\netag: "a"\r\ncontent-length: 5\r\n\r\n', 304, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", 200, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200, b""),
        ("GET", chunked_answer(b"a", b"b"), 200, b"ab"),
        ("GET", answer(b""), 200, b""),
        ("GET", answer(b"body"), 200, b"body"),
    ],
)
async def test_answers_of_every_shape_leave_the_connection_usable(
    plane: Foreign, method: str, said: bytes, status: int, body: bytes
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(said)

    plane.script(script)
    request = f"{method} /items/1 HTTP/1.1\r\nhost: a\r\nx-key: a\r\n\r\n".encode()
    async with client(plane.port) as c:
        for _ in range(2):
            got = await c.ask(request, head=method == "HEAD")
            assert (got.status, got.body) == (status, body)
            if status == 204:
                assert b"content-length" not in got.headers
    await until(lambda: plane.outcomes() == {"ok": 2})


async def test_an_upload_streams_and_the_answer_may_begin_before_its_end(plane: Foreign) -> None:
    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            size = int(await peer.receive_until(b"\r\n"), 16)
            await peer.send(b"%x\r\n" % size + await peer.receive_exactly(size + 2))
            if not size:
                return

    plane.script(echo)
    async with client(plane.port) as c:
        await c.send(b"POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await c.reader.readuntil(b"\r\n\r\n")
        for n in range(5):
            await c.send(b"5\r\nping%d\r\n" % n)
            assert await c.reader.readuntil(b"ping%d\r\n" % n)
        await c.send(b"0\r\n\r\n")
        await c.reader.readuntil(b"0\r\n\r\n")


@pytest.mark.parametrize("when", ["before the head", "in the body", "in the upload"])
async def test_a_client_that_leaves_ends_the_upstream_call(plane: Foreign, when: str) -> None:
    reached, closed = asyncio.Event(), asyncio.Event()

    async def wait(peer: Peer) -> None:
        await peer.receive_head()
        if when == "in the body":
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        reached.set()
        await peer.wait_closed()
        closed.set()

    plane.script(wait)
    async with client(plane.port) as c:
        if when == "in the upload":
            await c.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc")
        else:
            await c.send(get())
        await reached.wait()
        if when == "in the body":
            await c.reader.readuntil(b"a\r\n")
    async with asyncio.timeout(20):
        await closed.wait()
    await until(lambda: plane.outcomes() == {"client_gone": 1})
    assert plane.lane.plane.in_flight == 0


async def test_an_answer_that_breaks_off_never_ends_cleanly(plane: Foreign) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")

    plane.script(script)
    async with client(plane.port) as c:
        await c.send(get())
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await c.reader.readuntil(b"0\r\n\r\n")
    await until(lambda: plane.outcomes() == {"failure": 1})


async def test_a_side_that_is_away_is_a_problem(plane: Foreign) -> None:
    for side in plane.sides.values():
        assert side.server is not None
        await side.server.aclose()
    async with client(plane.port) as c:
        for _ in range(2):
            got = await c.ask(get())
            assert (got.status, got.json()["code"]) == (502, "upstream_refused")


async def test_a_body_beyond_the_limit_is_413(plane: Foreign) -> None:
    head = b"POST /find HTTP/1.1\r\nhost: a\r\nx-key: a\r\ntransfer-encoding: chunked\r\n\r\n"
    async with client(plane.port) as c:
        assert (await c.ask(head + b"4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n")).status == 413


async def test_a_server_whose_receive_fails_ends_the_request(plane: Foreign) -> None:
    async def broken() -> dict[str, object]:
        raise RuntimeError("the server broke")

    async def send(message: dict[str, object]) -> None:
        raise AssertionError("nothing can be answered")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/upload",
        "raw_path": b"/upload",
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "client": None,
        "headers": [(b"host", b"a"), (b"content-length", b"5")],
    }
    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="the server broke"):
            await plane.lane(scope, broken, send)
    assert plane.lane.plane.in_flight == 0
