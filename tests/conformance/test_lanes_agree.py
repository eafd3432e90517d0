"""The same valid exchange through both lanes: sides and clients see the same bytes, ids, dates and chunk ends aside."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.edge.lane_choice import Lane
from tests.integration.edge.scene import Wish, edge
from tests.support.raw_upstream import Peer, RawRequest, Script
from tests.support.sides import live, migration, stub_sides

VARYING = (b"x-request-id:", b"traceparent:", b"date:", b"idempotency-key:", b"crossfade-request-time:")
NAMES = st.sampled_from(["x-a", "X-B", "accept", "cookie", "x-empty", "te", "connection", "x_under", "crossfade-x"])
VALUES = st.sampled_from(["", "1", "a, b", "a\tb", "ä", "x-a", "keep-alive", "trailers", "x" * 200])
BODIES = st.one_of(st.none(), st.binary(max_size=40), st.just(b"\r\n\r\nGET / HTTP/1.1\r\n"))
PATHS = [
    "/items/1",
    "/items/a%20b?x=%zz&a=1&a=2;b=3",
    "/items/1?",
    "/find",
    "/other//x%2Fy?q",
    "/other/..%2f",
    "/v1/%C3%A4",
]


@dataclass(frozen=True)
class Asked:
    """A request, as it goes on the wire."""

    method: str
    path: str
    fields: list[tuple[str, str]]
    text: bytes | None
    times: int
    chunk: int
    """Bytes of a chunk; 0: Content-Length."""

    @property
    def body(self) -> bytes | None:
        return None if self.text is None else self.text * self.times

    def raw(self, number: int, *, is_last: bool) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: a", f"x-n: {number}", f"x-key: k{number}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        if is_last:
            lines.append("Connection: close")
        body = b""
        if self.body is not None and self.chunk:
            lines.append("Transfer-Encoding: chunked")
            cuts = range(0, len(self.body), self.chunk)
            pieces = [self.body[at : at + self.chunk] for at in cuts]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
            body = self.body
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Said:
    """An answer of a side."""

    status: int
    fields: list[tuple[str, str]]
    text: bytes
    times: int
    framing: str
    interim: bool
    trailers: bytes
    piece: int
    """Bytes that the side sends at once; 0: all."""

    def raw(self, *, is_head: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever", *(f"{name}: {value}" for name, value in self.fields)]
        body = self.text * self.times
        if self.framing == "length" and self.status not in (204, 304):
            lines.append(f"content-length: {len(body)}")
        elif self.framing == "chunked" and self.status not in (204, 304):
            lines.append("transfer-encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n" + self.trailers + b"\r\n"
        else:
            lines.append("connection: close")
        if is_head or self.status in (204, 304):
            body = b""
        hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" if self.interim else b""
        return hint + "\r\n".join([*lines, "", ""]).encode() + body


ASKED = st.builds(
    Asked,
    st.sampled_from(["GET", "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"]),
    st.sampled_from(PATHS),
    st.lists(st.tuples(NAMES, VALUES), max_size=5),
    BODIES,
    st.sampled_from([1, 1, 200]),
    st.sampled_from([0, 0, 1, 7, 5000]),
)
SAID = st.builds(
    Said,
    st.sampled_from([200, 200, 201, 204, 304, 404, 500, 599]),
    st.lists(
        st.tuples(st.sampled_from(["set-cookie", "x-a", "connection", "vary", "server", "trailer"]), VALUES), max_size=4
    ),
    st.binary(max_size=40),
    st.sampled_from([1, 1, 3000]),
    st.sampled_from(["length", "chunked", "close"]),
    st.booleans(),
    st.sampled_from([b"", b"x-late: 1\r\nset-cookie: no\r\n"]),
    st.sampled_from([0, 0, 1, 1000]),
)


def playing(said: list[Said], got: list[tuple[int, RawRequest]]) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            number = int(request.field(b"x-n")[0])
            got.append((number, request))
            answer = said[number]
            raw = answer.raw(is_head=request.line.startswith(b"HEAD "))
            # Byte by byte only where that takes no age.
            await peer.send_in_pieces(raw, answer.piece if answer.piece and len(raw) < 2000 else len(raw))
            if b"\r\nconnection: close\r\n" in raw:
                return

    return script


def steady(lines: list[bytes]) -> list[bytes]:
    """Header lines without what differs from request to request."""
    return [next((name for name in VARYING if line.startswith(name)), line) for line in lines]


def messages(stream: bytes, heads: list[bool]) -> list[tuple[list[bytes], bytes, bytes]]:
    """The answers in what a client got: head, body with chunk ends taken out, trailers."""
    found = []
    for is_head in heads:
        while True:
            head, _, stream = stream.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            status = int(lines[0].split(b" ")[1])
            body = trailers = b""
            if status < 200:
                found.append((steady(lines), b"", b""))
                continue
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            if is_head or status in (204, 304):
                pass
            elif b"transfer-encoding: chunked" in lines:
                while size := int((line := stream.partition(b"\r\n"))[0], 16):
                    body, stream = body + line[2][:size], line[2][size + 2 :]
                trailers, _, stream = (
                    stream.partition(b"\r\n")[2].partition(b"\r\n")
                    if stream[3:5] == b"\r\n"
                    else (stream[3:].partition(b"\r\n\r\n"))
                )
            else:
                body, stream = stream[:length], stream[length:]
            found.append((steady(lines), body, trailers))
            break
        if b"connection: close" in lines:
            break
    assert stream == b""
    return found


async def through(lane: Lane, asked: list[Asked], said: list[Said], pieces: int | None) -> tuple[object, object]:
    """What the sides and the client saw."""
    got: list[tuple[int, RawRequest]] = []
    with tempfile.TemporaryDirectory() as directory:
        async with (
            stub_sides() as sides,
            edge(Path(directory), sides, live(migration(sides), 50), Wish(express=lane is Lane.EXPRESS)) as plane,
        ):
            for side in sides.values():
                side.script = playing(said, got)
            last = len(asked) - 1
            stream = b"".join(request.raw(n, is_last=n == last) for n, request in enumerate(asked))
            heard = await plane.talk(stream, pieces=pieces)
    seen = sorted((number, request.line, steady(request.fields), request.body) for number, request in got)
    return seen, messages(heard, [request.method == "HEAD" for request in asked])


@pytest.fixture
def lane() -> None:
    """In place of the folder's: these tests choose for themselves."""


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    exchanges=st.lists(st.tuples(ASKED, SAID), min_size=1, max_size=4),
    pieces=st.sampled_from([None, None, 1, 50]),
)
async def test_both_lanes_say_the_same(exchanges: list[tuple[Asked, Said]], pieces: int | None) -> None:
    asked, said = [one for one, _ in exchanges], [other for _, other in exchanges]
    if sum(len(one.body or b"") for one in asked) > 1000:
        pieces = None
    express = await through(Lane.EXPRESS, asked, said, pieces)
    general = await through(Lane.GENERAL, asked, said, pieces)
    assert express == general
