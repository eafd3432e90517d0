"""Clients that hold connections and say nothing, on the server of control and of the ops port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.small_server import SmallServer, SmallServerConfig
from tests.support.sides import client
from tests.support.waiting import until
from tests.support.worker import bound_socket

CONNECTIONS = 8
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Slow:
    """An application that answers when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.asked = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: object, send: Send) -> None:
        assert scope["type"] == "http"
        assert receive is not None
        self.asked += 1
        await self.let.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def slow() -> Slow:
    return Slow()


@asynccontextmanager
async def serving(slow: Slow, head_s: float) -> AsyncIterator[int]:
    server = SmallServer(SmallServerConfig(slow, connections=CONNECTIONS, head_s=head_s, timeout_graceful_shutdown=1))
    sock = bound_socket()
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await until(lambda: server.started)
    try:
        yield sock.getsockname()[1]
    finally:
        slow.let.set()
        server.should_exit = True
        await task


async def test_who_says_nothing_makes_room_for_who_asks(slow: Slow) -> None:
    slow.let.set()
    async with AsyncExitStack() as stack, serving(slow, 60.0) as port:
        for number in range(3 * CONNECTIONS):
            silent = await stack.enter_async_context(client(port))
            await silent.send(GET[: number % len(GET)])
        asking = await stack.enter_async_context(client(port))
        assert (await asking.ask(GET)).status == 200
        assert (await asking.ask(GET)).status == 200


async def test_who_is_being_answered_keeps_its_connection(slow: Slow) -> None:
    async with AsyncExitStack() as stack, serving(slow, 60.0) as port:
        clients = [await stack.enter_async_context(client(port)) for _ in range(CONNECTIONS)]
        for each in clients:
            await each.send(GET)
        await until(lambda: slow.asked == CONNECTIONS)
        late = await stack.enter_async_context(client(port))
        refused = await late.answer()
        assert (refused.status, refused.json()["code"]) == (503, "overloaded")
        slow.let.set()
        assert [(await each.answer()).status for each in clients] == [200] * CONNECTIONS


async def test_a_head_that_is_too_long_is_refused_even_if_it_comes_in_one_piece(slow: Slow) -> None:
    slow.let.set()
    async with serving(slow, 60.0) as port, client(port) as c:
        await c.send(GET[:-2] + b"x-huge: " + b"a" * 100_000 + b"\r\n\r\n")
        assert (await c.answer()).status == 400
    assert slow.asked == 0


@pytest.mark.parametrize("said", [b"", GET[:9]])
async def test_a_head_that_does_not_come_ends_the_connection(slow: Slow, said: bytes) -> None:
    slow.let.set()
    async with serving(slow, 0.05) as port, client(port) as c:
        await c.send(said)
        assert await c.rest() == b""


async def test_half_a_head_after_an_answer_ends_the_connection_too(slow: Slow) -> None:
    slow.let.set()
    async with serving(slow, 0.05) as port, client(port) as c:
        assert (await c.ask(GET)).status == 200
        await c.send(GET[:9])
        assert await c.rest() == b""
