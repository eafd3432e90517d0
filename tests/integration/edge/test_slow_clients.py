"""Clients that hold on to what they have: every state of a connection ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.limits import EdgeLimits
from tests.integration.edge.scene import Edge, Wish, edge
from tests.support.raw_upstream import Peer
from tests.support.sides import StubSide, client, get, live, migration, post
from tests.support.waiting import until

TIGHT = EdgeLimits(header_timeout_s=0.4, body_idle_timeout_s=0.4, write_idle_timeout_s=0.4, keep_alive_s=0.4)


@pytest.mark.parametrize("before", [b"", get()], ids=["fresh", "kept alive"])
async def test_empty_lines_do_not_keep_a_connection(tmp_path: Path, sides: dict[Side, StubSide], before: bytes) -> None:
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(TIGHT)) as plane, client(plane.port) as c:
        if before:
            assert (await c.ask(before)).status == 200
        ended = asyncio.create_task(c.rest())

        async def drip() -> None:
            while not ended.done():
                try:
                    await c.send(b"\r\n")
                except ConnectionError:
                    return
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        with contextlib.suppress(ConnectionError):
            assert await ended == b""
        await dripping
    assert not plane.server.listener.connections


async def _fill(plane: Edge, peer: Peer) -> None:
    """Answers until the gateway has bytes left that its client does not take, and then ends the answer."""
    await peer.receive_request()
    await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    connection = next(iter(plane.server.listener.connections))
    while not connection.transport.get_write_buffer_size():
        await peer.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await asyncio.sleep(0)
    await peer.send(b"0\r\n\r\n")


@pytest.mark.parametrize("fields", [(), ("connection: close",)], ids=["kept alive", "to be closed"])
async def test_a_client_that_leaves_the_tail_of_its_answer_is_cut_off(
    tmp_path: Path, sides: dict[Side, StubSide], fields: tuple[str, ...]
) -> None:
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(TIGHT)) as plane:
        for side in sides.values():
            side.script = lambda peer: _fill(plane, peer)
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", plane.port))
            stuck.sendall(get("/items/1", *fields))
            await until(lambda: plane.server.listener.connections)
            await until(lambda: not plane.server.listener.connections, "the connection ends")


async def test_a_body_that_must_be_read_first_may_not_drip_for_ever(
    tmp_path: Path, sides: dict[Side, StubSide]
) -> None:
    wish = Wish(EdgeLimits(body_idle_timeout_s=5))
    wish.lane = type(wish.lane)(auth=None, body_read_s=0.5)
    request = post("/mcp", b"", "content-type: application/json").replace(b"length: 0", b"length: 5000")
    async with edge(tmp_path, sides, live(migration(sides), 50), wish) as plane, client(plane.port) as c:
        await c.send(request)
        answer = asyncio.create_task(c.answer())
        while not answer.done():
            try:
                await c.send(b" ")
            except ConnectionError:
                break
            await asyncio.sleep(0.02)
        got = await answer
    assert (got.status, got.json()["error"]["data"]["code"]) == (408, "request_timeout")
    assert plane.forwarded == []


async def test_the_tail_of_an_early_answer_reaches_a_slow_reader(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    size = 24_000_000

    async def early(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        await peer.wait_closed()

    for side in sides.values():
        side.script = early
    async with edge(tmp_path, sides, live(migration(sides), 50)) as plane, client(plane.port) as c:
        await c.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\nabc")
        head = await c.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        read = 0
        while read < size:
            piece = await c.reader.read(1 << 18)
            assert piece, f"cut off after {read} bytes"
            read += len(piece)
            # A client of some 5 MB/s: it is busy for longer than the lingering close takes by itself.
            await asyncio.sleep(0.05)
