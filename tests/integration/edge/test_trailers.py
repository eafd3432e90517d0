"""Trailers: those of an answer reach the client behind the body; those of a request stay behind."""

from __future__ import annotations

import pytest

from tests.integration.edge.scene import Edge
from tests.integration.edge.test_answers import both
from tests.support.raw_upstream import Peer, Script
from tests.support.sides import Client, client, get, post

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
TRAILERS = (
    b"x-checksum: 7\r\nSet-Cookie: a=1\r\nx-checksum:  8 \r\ncrossfade-side: forged\r\ncontent-digest: sha-256=:x:\r\n"
)


def trailing(*segments: bytes) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            for segment in segments:
                await peer.send(segment)

    return script


async def collect(c: Client, pieces: list[bytes]) -> None:
    while piece := await c.reader.read(1000):
        pieces.append(piece)


WHOLE = (HEAD + b"trailer: x-checksum, Set-Cookie\r\n\r\n4\r\nbody\r\n0\r\n" + TRAILERS + b"\r\n",)
PIECES = tuple(bytes([byte]) for byte in WHOLE[0])


@pytest.mark.parametrize("segments", [WHOLE, PIECES], ids=["whole", "byte by byte"])
async def test_trailers_of_an_answer_pass_but_for_those_that_steer(plane: Edge, segments: tuple[bytes, ...]) -> None:
    both(plane, trailing(*segments))
    async with client(plane.port) as c:
        for _ in range(2):
            await c.send(get("/items/1"))
            head = await c.until(b"\r\n\r\n")
            assert [line for line in head.split(b"\r\n") if line.startswith(b"trailer")] == [b"trailer: x-checksum"]
            assert b"transfer-encoding: chunked\r\n" in head
            rest = await c.until(b"\r\n\r\n")
            assert rest.endswith(b"\r\n0\r\nx-checksum: 7\r\nx-checksum: 8\r\ncontent-digest: sha-256=:x:\r\n\r\n")


async def test_a_client_of_http_1_0_gets_the_body_alone(plane: Edge) -> None:
    both(plane, trailing(*WHOLE))
    got = await plane.talk(b"GET /items/1 HTTP/1.0\r\nhost: a\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert body == b"body"
    assert b"checksum" not in head


async def test_trailers_without_a_body_pass(plane: Edge) -> None:
    both(plane, trailing(HEAD + b"\r\n0\r\nx-late: 1\r\n\r\n"))
    async with client(plane.port) as c:
        await c.send(get("/items/1"))
        assert b"transfer-encoding: chunked\r\n" in await c.until(b"\r\n\r\n")
        assert await c.until(b"\r\n\r\n") == b"0\r\nx-late: 1\r\n\r\n"


@pytest.mark.parametrize("value", [b"a\x01b", b"a\x7fb", b"a\0b", b"a\rb"])
async def test_a_trailer_with_a_control_character_ends_the_answer_as_cut_off(plane: Edge, value: bytes) -> None:
    both(plane, trailing(HEAD + b"\r\n4\r\nbody\r\n0\r\nx-late: " + value + b"\r\n\r\n"))
    async with client(plane.port) as c:
        await c.send(get("/items/1"))
        pieces: list[bytes] = []
        with pytest.raises(ConnectionResetError):
            await collect(c, pieces)
        assert b"x-late" not in b"".join(pieces)


async def test_trailers_of_a_request_stay_behind(plane: Edge) -> None:
    async with client(plane.port) as c:
        head = b"POST /items/1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n"
        got = await c.ask(head + b"4\r\nbody\r\n0\r\nx-late: 1\r\nauthorization: forged\r\n\r\n")
        assert got.status in (200, 405)
        await c.ask(post("/items/1", b"again"))
    for side in plane.sides.values():
        for request in side.requests:
            assert b"x-late" not in request.raw
            assert b"forged" not in request.raw
