"""A worker that leaves finishes what it has begun; under another ASGI server the lane works as well."""

from __future__ import annotations

import asyncio

import uvicorn

from gateway.core.model import Side
from gateway.edge.general import GeneralLane
from tests.integration.edge.scene import Edge
from tests.support.raw_upstream import Peer
from tests.support.sides import client, get, post
from tests.support.waiting import until
from tests.support.worker import bound_socket


class Held:
    """Sides that answer when told to."""

    def __init__(self, plane: Edge) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self.closed = asyncio.Event()
        for side in plane.sides.values():
            side.script = self._script

    async def _script(self, peer: Peer) -> None:
        await peer.receive_request()
        self.reached.set()
        waiting = asyncio.create_task(peer.wait_closed())
        releasing = asyncio.create_task(self.release.wait())
        await asyncio.wait({waiting, releasing}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            self.closed.set()
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
        for task in (waiting, releasing):
            task.cancel()


async def test_a_request_under_way_is_answered_and_its_connection_then_closed(plane: Edge) -> None:
    held = Held(plane)
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a"))
        await held.reached.wait()
        plane.server.drain(linger=False)
        await until(lambda: plane.server.listener.draining)
        held.release.set()
        answer = await c.answer()
        assert (answer.status, answer.body, answer.headers[b"connection"]) == (200, b"late", b"close")
        assert await c.rest() == b""


async def test_idle_connections_end_at_once_and_new_ones_are_refused(plane: Edge) -> None:
    async with client(plane.port) as idle:
        assert (await idle.ask(get())).status == 200
        plane.server.drain(linger=False)
        assert await idle.rest() == b""
    refused = False
    while not refused:
        try:
            async with client(plane.port) as c:
                await c.rest()
        except ConnectionError:
            refused = True


class Foreign:
    """The lane as a plain ASGI application under an unchanged uvicorn."""

    def __init__(self, plane: Edge) -> None:
        self._sock = bound_socket()
        self.port = self._sock.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                GeneralLane(plane.plane),
                lifespan="off",
                log_config=None,
                access_log=False,
                date_header=False,
                server_header=False,
            )
        )

    async def __aenter__(self) -> Foreign:
        self._serving = asyncio.create_task(self._server._serve([self._sock]))
        await until(lambda: self._server.started)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._serving


async def test_the_lane_runs_under_another_server(plane: Edge) -> None:
    async with Foreign(plane) as foreign, client(foreign.port) as c:
        answers = [await c.ask(get("/items/1", f"x-key: k{n}")) for n in range(10)]
        assert {answer.body for answer in answers} == {b"old", b"new"}
        assert (await c.ask(post("/items/1", b"{}" * 5000, "x-key: a", method="PUT"))).status == 200
        assert (await c.ask(get("/v1/workspaces"))).status == 404
    natural = {request.line for side in Side for request in plane.sides[side].requests}
    assert natural == {b"GET /items/1 HTTP/1.1", b"PUT /items/1 HTTP/1.1"}


async def test_there_too_a_client_that_leaves_ends_the_upstream_call(plane: Edge) -> None:
    held = Held(plane)
    async with Foreign(plane) as foreign:
        async with client(foreign.port) as c:
            await c.send(get("/items/1", "x-key: a"))
            await held.reached.wait()
        async with asyncio.timeout(20):
            await held.closed.wait()
