"""The MCP path: routed by header or by body, one message at a time, errors in JSON-RPC's shape with the right id."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import Side
from gateway.edge.limits import EdgeLimits
from gateway.edge.plane import LaneSettings
from tests.integration.edge.scene import Edge, Wish, edge, outcomes
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import Answer, StubSide, client, get, live, migration, post
from tests.support.waiting import until

NEW_VERSION = "mcp-protocol-version: 2026-07-28"
OLD_VERSION = "mcp-protocol-version: 2025-06-18"


def call(tool: str = "item_get", key: str = "a", request_id: Any = 7) -> dict[str, Any]:
    params = {"name": tool, "arguments": {"key": key}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def mcp(message: Any, *fields: str, path: str = "/mcp") -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return post(path, body, "content-type: application/json", *fields)


def by_header(tool: str, key: str = "a") -> tuple[str, ...]:
    return (NEW_VERSION, "mcp-method: tools/call", f"mcp-name: {tool}", f"x-key: {key}")


async def ask(plane: Edge, data: bytes) -> Answer:
    async with client(plane.port) as c:
        return await c.ask(data)


def operations(plane: Edge) -> dict[str, int]:
    """Answered requests by operation, those that none was found for under its own name."""
    counted = plane.counted()["operations"]
    return {
        name: sum(sum(cell["outcomes"].values()) for cell in sides.values()) for name, sides in counted.items() if sides
    }


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", -32600),
        (json.dumps([call()]).encode(), -32600),
        (b"3", -32600),
        (b"null", -32600),
        (b'"text"', -32600),
        (b"", -32700),
        (b"{", -32700),
        (b'{"id": 1, "id": 2}', -32700),
        (b'{"id": 1, "method": "tools/call", "params": {"name": "item_get", "name": "item_put"}}', -32700),
        (b'{"id": NaN}', -32700),
        (b'{"id": -Infinity}', -32700),
        (b"[" * 200, -32700),
        (b'{"id": "\xff"}', -32700),
        (b"\xef\xbb\xbf{}", -32700),
        (b'{"id": ' + b"9" * 6000 + b"}", -32700),
        ("{}".encode("utf-16"), -32700),
    ],
)
async def test_what_is_no_single_message_is_refused_in_its_own_shape(plane: Edge, body: bytes, code: int) -> None:
    got = await ask(plane, mcp(body))
    assert (got.status, got.headers[b"content-type"]) == (400, b"application/json")
    error = got.json()
    assert (error["jsonrpc"], error["id"], error["error"]["code"]) == ("2.0", None, code)
    assert error["error"]["data"] == {"code": "bad_request", "retryable": False}
    assert plane.forwarded == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_stateless_endpoint_takes_post_alone(plane: Edge, method: str) -> None:
    got = await ask(plane, f"{method} /mcp HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert (got.status, got.headers[b"allow"]) == (405, b"POST")
    assert got.json()["error"]["data"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/mcp", "connection: upgrade", "upgrade: websocket"),
        mcp(call(), "via: 1.1 crossfade-shop, 1.1 crossfade-shop, 1.0 crossfade-shop"),
        b"OPTIONS /mcp HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\n\r\n",
        mcp(call(), path="/mcp/"),
        mcp(call(), path="/%6dcp"),
        mcp(call(), path="//mcp"),
        mcp(call(), NEW_VERSION, NEW_VERSION),
        mcp(call(), "mcp-name: a", "MCP-Name: a"),
        b"TRACE /mcp HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
        b"POST /mcp HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{",
        b"POST /mcp HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n",
    ],
)
async def test_every_refusal_on_the_path_has_the_shape(
    tmp_path: Path, sides: dict[Side, StubSide], request_bytes: bytes
) -> None:
    limits = EdgeLimits(body_idle_timeout_s=0.3)
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(limits)) as plane:
        got = await ask(plane, request_bytes)
        assert got.status in (400, 405, 408, 413, 501)
        assert got.json()["error"]["code"] == (-32603 if got.status >= 500 else -32600)
        await until(lambda: outcomes(plane) == {"refused": 1})


async def test_a_request_that_is_shed_is_told_in_the_shape(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    async with edge(tmp_path, sides, live(migration(sides), 50), Wish(lane=LaneSettings(in_flight=0))) as plane:
        got = await ask(plane, mcp(call()))
    assert (got.status, got.headers[b"retry-after"]) == (503, b"1")
    assert got.json()["error"]["data"] == {"code": "overloaded", "retryable": True}


@pytest.mark.parametrize(
    ("request_id", "echoed"), [(7, 7), ("a", "a"), (0, 0), ("", ""), (None, None), (True, None), ([1], None)]
)
@pytest.mark.parametrize("tool", ["item_get", "item_put"])
async def test_a_side_that_is_away_is_told_with_the_id_of_the_call(
    plane: Edge, request_id: Any, echoed: Any, tool: str
) -> None:
    for side in plane.sides.values():
        assert side.server is not None
        await side.server.aclose()
    got = await ask(plane, mcp(call(tool, request_id=request_id)))
    assert got.status == 502
    assert got.json()["id"] == echoed
    assert got.json()["error"]["code"] == -32603
    assert got.json()["error"]["data"] == {"code": "upstream_refused", "retryable": True}


@pytest.mark.parametrize(
    ("fields", "body", "operation"),
    [
        (by_header("item_get"), call("item_get"), "item.get"),
        ((), call("item_get"), "item.get"),
        ((OLD_VERSION, "mcp-method: tools/call", "mcp-name: item_get"), call("item_put"), "item.put"),
        (("mcp-method: tools/call", "mcp-name: item_get"), call("item_put"), "item.put"),
        ((NEW_VERSION + ", 2025-06-18", "mcp-method: tools/call", "mcp-name: item_get"), call("item_put"), "item.put"),
        (by_header("=?base64?aXRlbV9nZXQ=?="), call("item_get"), "item.get"),
        (("mcp_method: tools/call", "mcp_name: item_get", NEW_VERSION), call("item_put"), "item.put"),
    ],
    ids=["headers", "body", "older version", "no version", "two versions", "base64", "underscores"],
)
async def test_headers_route_on_the_version_that_checks_them_and_the_body_elsewhere(
    plane: Edge, fields: tuple[str, ...], body: Any, operation: str
) -> None:
    assert (await ask(plane, mcp(body, *fields))).status == 200
    await until(lambda: operations(plane) == {operation: 1})
    request = next(request for side in plane.sides.values() for request in side.requests)
    assert request.body == json.dumps(body).encode()
    assert not request.field(b"mcp_method")
    assert bool(request.field(b"idempotency-key")) == (operation == "item.put")


async def _dead_after_one(peer: Peer) -> None:
    """Answers once; what comes next on the connection is taken, and the connection reset."""
    await peer.receive_request()
    await peer.send(answer(b"ok"))
    await peer.receive_request()
    peer.reset()


@pytest.mark.parametrize(("called", "status"), [("item_get", 200), ("item_put", 502)], ids=["the truth", "a lie"])
async def test_a_write_that_headers_call_a_read_is_never_sent_twice(plane: Edge, called: str, status: int) -> None:
    for side in plane.sides.values():
        side.script = _dead_after_one
    request = mcp(call(called), *by_header("item_get"))
    assert (await ask(plane, request)).status == 200
    assert (await ask(plane, request)).status == status


async def test_events_pass_one_by_one_and_a_client_that_leaves_ends_them(plane: Edge) -> None:
    closed = asyncio.Event()

    async def stream(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(b"9\r\ndata: 1\n\n\r\n")
        await peer.wait_closed()
        closed.set()

    for side in plane.sides.values():
        side.script = stream
    async with client(plane.port) as c:
        await c.send(mcp(call("item_put")))
        head = await c.reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        assert await c.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
    async with asyncio.timeout(20):
        await closed.wait()


async def test_a_session_id_passes_untouched_and_decides_nothing(plane: Edge) -> None:
    first = await ask(plane, mcp(call(), "mcp-session-id: 1"))
    again = await ask(plane, mcp(call(), "mcp-session-id: 2"))
    assert first.body == again.body
    ids = [request.field(b"mcp-session-id") for side in plane.sides.values() for request in side.requests]
    assert ids == [[b"1"], [b"2"]]
