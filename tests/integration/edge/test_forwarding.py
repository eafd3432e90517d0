"""What a side gets of a request, and a client of an answer: everything that is meant for it, nothing that is not."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.core import force
from gateway.core.model import SCOPE_ALL, Latch, LatchKind, Side
from tests.integration.edge.scene import Edge, Wish, edge
from tests.support.raw_upstream import Peer, RawRequest
from tests.support.sides import StubSide, client, get, live, migration, post


def only_request(plane: Edge) -> RawRequest:
    (request,) = [request for side in plane.sides.values() for request in side.requests]
    return request


async def send(plane: Edge, *fields: str, path: str = "/items/1") -> RawRequest:
    async with client(plane.port) as c:
        assert (await c.ask(get(path, *fields))).status == 200
    return only_request(plane)


async def test_end_to_end_fields_arrive_in_order_and_repeated_ones_stay_apart(plane: Edge) -> None:
    request = await send(plane, "b: 1", "a: 2", "B: 3", "authorization: Bearer t", "cookie: a=1", "accept-encoding: br")
    assert request.field(b"b") == [b"1", b"3"]
    assert request.field(b"authorization") == [b"Bearer t"]
    assert request.field(b"cookie") == [b"a=1"]
    assert request.field(b"accept-encoding") == [b"br"]
    assert not request.field(b"user-agent")
    names = [line.split(b":")[0] for line in request.fields]
    assert names.index(b"b") < names.index(b"a")


async def test_hop_by_hop_fields_stay_here(plane: Edge) -> None:
    request = await send(
        plane, "connection: keep-alive, X-Mine", "x-mine: 1", "keep-alive: 5", "te: gzip", "proxy-authorization: b",
        "proxy-connection: x", "upgrade: foo", "trailer: y", "x-http-method-override: DELETE",
    )  # fmt: skip
    for name in (
        b"connection",
        b"x-mine",
        b"keep-alive",
        b"te",
        b"proxy-authorization",
        b"proxy-connection",
        b"upgrade",
    ):
        assert not request.field(name), name
    assert not request.field(b"x-http-method-override")


@pytest.mark.parametrize(
    "name",
    ["Crossfade-Auth", "crossfade_auth", "CROSSFADE-COPY", "Crossfade-Request-Time", "crossfade-x", "Crossfade_Force"],
)
async def test_forged_fields_are_removed_and_counted(plane: Edge, name: str) -> None:
    request = await send(plane, f"{name}: forged", "connection: close, crossfade-auth")
    assert b"forged" not in request.raw
    assert request.field(b"crossfade-auth") == [b"internal"]
    assert plane.counted()["forged"] >= 1


async def test_forwarding_fields_of_an_untrusted_client_are_written_anew(plane: Edge) -> None:
    request = await send(
        plane, "x-forwarded-for: 6.6.6.6", "x-forwarded-proto: https", "x-forwarded-host: evil",
        "forwarded: for=6.6.6.6", "x-real-ip: 6.6.6.6", "x_forwarded_for: 6.6.6.6",
    )  # fmt: skip
    assert b"6.6.6.6" not in request.raw
    assert request.field(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.field(b"x-forwarded-proto") == [b"http"]
    assert request.field(b"x-forwarded-host") == [b"shop.example"]


async def test_a_trusted_proxy_is_believed(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    content = migration(sides, trusted_proxies=["127.0.0.0/8"])
    async with edge(tmp_path, sides, live(content, 50)) as plane:
        request = await send(plane, "x-forwarded-for: 9.9.9.9", "x-forwarded-proto: https")
    assert request.field(b"x-forwarded-for") == [b"9.9.9.9, 127.0.0.1"]
    assert request.field(b"x-forwarded-proto") == [b"https"]


async def test_a_trace_is_kept_when_valid_and_started_otherwise(plane: Edge) -> None:
    valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert (await send(plane, f"traceparent: {valid}")).field(b"traceparent") == [valid.encode()]
    for side in plane.sides.values():
        side.requests.clear()
    started = (await send(plane, "traceparent: 00-bad")).field(b"traceparent")
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", started[0])


async def test_reads_get_no_fields_of_writes(plane: Edge) -> None:
    request = await send(plane, "x-key: a")
    assert not request.field(b"idempotency-key")
    assert not request.field(b"crossfade-request-time")


async def test_a_request_that_came_through_here_before_is_refused(plane: Edge) -> None:
    async with client(plane.port) as c:
        via = only = (await _via(plane)).decode()
        answer = await c.ask(get("/items/1", f"via: {via}"))
        if answer.status == 200:
            # One more hop of another gateway is no loop; the same one twice is.
            answer = await c.ask(get("/items/1", f"via: {only}, {only}, {only}"))
    assert answer.status == 400


async def _via(plane: Edge) -> bytes:
    request = await send(plane)
    for side in plane.sides.values():
        side.requests.clear()
    return request.field(b"via")[0]


async def test_fields_of_an_answer_arrive_and_hop_by_hop_ones_do_not(plane: Edge) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(
            b"HTTP/1.1 201 Made\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nconnection: x-mine\r\nx-mine: 1\r\n"
            b"keep-alive: 5\r\nproxy-authenticate: x\r\ncrossfade-side: liar\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
            b"server: mine\r\ncontent-length: 2\r\n\r\nok"
        )

    for side in plane.sides.values():
        side.script = answer
    async with client(plane.port) as c:
        await c.send(get("/items/1", "x-key: a"))
        head = await c.reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0].startswith(b"http/1.1 201")
    assert [line for line in lines if line.startswith(b"set-cookie")] == [b"set-cookie: a=1", b"set-cookie: b=2"]
    assert [line for line in lines if line.startswith(b"date")] == [b"date: thu, 01 jan 1970 00:00:00 gmt"]
    assert b"server: mine" in lines
    for name in (b"x-mine", b"keep-alive", b"proxy-authenticate", b"crossfade-side: liar"):
        assert not any(line.startswith(name) for line in lines), name


@pytest.fixture
async def killed(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    latch = Latch(SCOPE_ALL, LatchKind.KILL, "test", "ada", datetime.now(UTC))
    async with edge(tmp_path, sides, live(migration(sides), 100), Wish(latches={SCOPE_ALL: latch})) as running:
        yield running


def forced(side: Side, seconds: float = 60, name: str = "shop") -> str:
    return "crossfade-force: " + force.sign(b"force", name, side, int(time.time() + seconds))


async def test_a_valid_force_decides_a_read_and_no_write(plane: Edge) -> None:
    async with client(plane.port) as c:
        for n in range(6):
            assert (await c.ask(get("/items/1", f"x-key: k{n}", forced(Side.NEW)))).body == b"new"
            natural = (await c.ask(post("/items/1", b"{}", f"x-key: k{n}", method="PUT"))).body
            assert (
                await c.ask(post("/items/1", b"{}", f"x-key: k{n}", forced(Side.NEW), method="PUT"))
            ).body == natural


@pytest.mark.parametrize(
    "value",
    [
        forced(Side.NEW, -5),
        forced(Side.NEW, name="other"),
        forced(Side.NEW)[:-2] + "zz",
        forced(Side.NEW).replace("new", "old"),
        "crossfade-force: new",
    ],
)
async def test_an_invalid_force_is_ignored_and_counted(plane: Edge, value: str) -> None:
    async with client(plane.port) as c:
        natural = (await c.ask(get("/items/1", "x-key: k1"))).body
        assert (await c.ask(get("/items/1", "x-key: k1", value))).body == natural
    assert plane.counted()["force_ignored"] == 1


async def test_a_kill_wins_over_a_force(killed: Edge) -> None:
    async with client(killed.port) as c:
        assert (await c.ask(get("/items/1", "x-key: k1", forced(Side.NEW)))).body == b"old"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/workspaces", "/v1/workspaces/", "/v1/workspaces/x", "/v1//workspaces", "/v1/./workspaces",
        "/v1/x/../workspaces",
        "/v1/%77orkspaces", "/v1/workspaces;a=b", "/v1/workspaces%2Fx", "/V1/../v1/workspaces", "//v1/workspaces",
        "/v1/workspaces?x=1", "/v1/workspaces%00", "/v1\\workspaces", "/v1/workspaces/..%2f..",
    ],
)  # fmt: skip
async def test_no_spelling_reaches_a_denied_path(plane: Edge, path: str) -> None:
    async with client(plane.port) as c:
        answer = await c.ask(get(path))
    assert answer.status in (400, 404)
    assert plane.forwarded == []


@pytest.mark.parametrize(
    "path",
    [
        "/x/../items/1",
        "/items/1/",
        "/items//1",
        "/items/./1",
        "/%69tems/1",
        "/items/1%2Fx",
        "/items/1%5Cx",
        "/items/1%00",
        "/items\\1",
    ],
)
async def test_an_ambiguous_spelling_of_an_operation_is_refused(plane: Edge, path: str) -> None:
    async with client(plane.port) as c:
        answer = await c.ask(get(path))
    assert (answer.status, answer.json()["code"]) == (400, "bad_request")
    assert plane.forwarded == []


@pytest.mark.parametrize("path", ["/items/1?x=%2e%2e&y=a//b", "/items/caf%C3%A9"])
async def test_harmless_spellings_reach_their_operation_untouched(plane: Edge, path: str) -> None:
    assert (await send(plane, path=path)).line == f"GET {path} HTTP/1.1".encode()
    assert set(plane.counted()["operations"]) == {"item.get"}
