"""Whatever a client sends, it hurts nobody else: legal answers or an end, and the next client is served."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.model import Side
from gateway.edge.lane_choice import Lane
from tests.integration.edge.scene import Edge, Wish, answers_in, edge
from tests.support.sides import client, get, live, migration, stub_sides

KEPT = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "seeds").glob("*.http"))}
FRAGMENTS = [
    b"GET /items/1 HTTP/1.1\r\n",
    b"POST /find HTTP/1.1\r\n",
    b"HEAD /items/1 HTTP/1.0\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET http://b/items/1 HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"x-key: k\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"X: " + b"y" * 3000 + b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\x16\x03\x01\x00\xc8",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
STREAMS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(min_size=1, max_size=20)), max_size=12)


async def withstands(plane: Edge, segments: list[bytes]) -> None:
    """Sends segments and leaves; the gateway said nothing but whole answers, and serves the next client."""
    async with client(plane.port) as c:
        try:
            for segment in segments:
                await c.send(segment)
                await asyncio.sleep(0)
            c.writer.write_eof()
            said = await c.rest()
        except OSError:
            said = b""
    if said and b"HTTP/1.1 1" not in said:
        assert all(200 <= status < 600 for status in answers_in(said)), said
    async with client(plane.port) as c:
        assert (await c.ask(get("/items/1"))).status == 200
    for side in plane.sides.values():
        for request in side.requests:
            assert request.field(b"host") in ([b"a"], [b"b"], [b""]) or len(request.field(b"host")) == 1
            assert len(request.field(b"content-length")) + len(request.field(b"transfer-encoding")) <= 1


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(streams=st.lists(STREAMS, min_size=1, max_size=4))
async def test_noise_harms_nobody(lane: Lane, streams: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            stub_sides() as sides,
            edge(Path(directory), sides, live(migration(sides), 50), Wish(express=lane is Lane.EXPRESS)) as plane,
        ):
            for segments in streams:
                await withstands(plane, segments)


@pytest.mark.parametrize("seed", KEPT)
@pytest.mark.parametrize("pieces", [0, 1], ids=["whole", "byte by byte"])
async def test_a_kept_stream_harms_nobody(plane: Edge, seed: str, pieces: int) -> None:
    data = KEPT[seed]
    await withstands(plane, [data] if not pieces else [data[at : at + 1] for at in range(len(data))])
    assert not any(b"smuggled" in request.line for side in Side for request in plane.sides[side].requests)
