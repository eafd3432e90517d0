"""The MCP path: routed by header or by body, refused in the client's own language."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.model import Side
from tests.integration.edge.scene import Edge
from tests.support.sides import Answer, client, post

MODERN = "mcp-protocol-version: 2026-07-28"
KEYS = [f"k{n}" for n in range(12)]


def call(tool: str = "item_get", key: str = "k1", **more: Any) -> bytes:
    params = {"name": tool, "arguments": {"key": key}}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params, **more}).encode()


async def ask(plane: Edge, body: bytes, *fields: str, method: str = "POST", path: str = "/mcp") -> Answer:
    async with client(plane.port) as c:
        return await c.ask(post(path, body, "content-type: application/json", *fields, method=method))


def error(answer: Answer) -> tuple[int, int, str, Any]:
    content = answer.json()
    assert content["jsonrpc"] == "2.0"
    return answer.status, content["error"]["code"], content["error"]["data"]["code"], content["id"]


def bodies(plane: Edge) -> list[bytes]:
    return [request.body for side in plane.sides.values() for request in side.requests]


async def test_old_and_new_protocols_send_a_key_to_the_same_side(plane: Edge) -> None:
    for key in KEYS:
        by_body = await ask(plane, call(key=key))
        by_header = await ask(plane, call(key=key), MODERN, "mcp-method: tools/call", "mcp-name: item_get")
        by_rest = await ask(plane, b"{}", f"x-key: {key}", method="PUT", path="/items/1")
        assert by_body.body == by_header.body == by_rest.body, key
    assert {body for body in map(bytes, bodies(plane)) if body != b"{}"} == {call(key=key) for key in KEYS}


async def test_a_lying_header_of_an_old_protocol_decides_nothing(plane: Edge) -> None:
    honest = await ask(plane, call("item_put", "k3"))
    lying = await ask(plane, call("item_put", "k3"), "mcp-method: tools/call", "mcp-name: item_get")
    assert honest.body == lying.body
    counted = plane.counted()["operations"]
    assert set(counted) == {"item.put"}


@pytest.mark.parametrize(
    ("body", "code", "identifier"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"\xff\xfe{", -32700, None),
        (b'{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "tools/call"}', -32700, None),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"a": NaN}}', -32700, None),
        (b'{"a":' * 200 + b"1" + b"}" * 200, -32700, None),
        (b"[]", -32600, None),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}]', -32600, None),
    ],
)
async def test_an_unreadable_message_is_refused_as_json_rpc(
    plane: Edge, body: bytes, code: int, identifier: Any
) -> None:
    assert error(await ask(plane, body)) == (400, code, "bad_request", identifier)
    assert plane.forwarded == []


@pytest.mark.parametrize("field", ["mcp-name: item_get", "mcp-method: tools/call", MODERN])
async def test_a_duplicated_routing_header_is_refused(plane: Edge, field: str) -> None:
    answer = await ask(plane, call(), MODERN, "mcp-method: tools/call", "mcp-name: item_get", field)
    assert error(answer)[0] == 400
    assert plane.forwarded == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_streams_and_sessions_are_not_for_stateless_sides(plane: Edge, method: str) -> None:
    async with client(plane.port) as c:
        answer = await c.ask(f"{method} /mcp HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n".encode())
    assert answer.status == 405
    assert b"POST" in answer.headers[b"allow"]
    assert answer.json()["error"]["data"]["code"] == "method_not_allowed"
    assert plane.forwarded == []


@pytest.mark.parametrize("method", ["initialize", "tools/list", "ping", "server/discover", "notifications/initialized"])
async def test_what_is_no_tool_call_takes_the_default_route(plane: Edge, method: str) -> None:
    answer = await ask(plane, json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode())
    assert (answer.status, answer.body) == (200, b"old")


async def test_an_unknown_tool_takes_the_default_route(plane: Edge) -> None:
    assert (await ask(plane, call("other_tool"))).body == b"old"


async def test_a_message_beyond_the_limit_is_refused_as_json_rpc(plane: Edge) -> None:
    answer = await ask(plane, call(padding="x" * 3_000_000))
    assert error(answer)[::2] == (413, "body_too_large")


async def test_a_refusal_answers_the_id_of_the_message(plane: Edge) -> None:
    for side in plane.sides.values():
        assert side.server is not None
        await side.server.aclose()
    assert error(await ask(plane, call())) == (502, -32603, "upstream_refused", 7)


async def test_the_session_of_a_client_passes_and_decides_nothing(plane: Edge) -> None:
    sides = {(await ask(plane, call(key="k5"), f"mcp-session-id: s{n}")).body for n in range(5)}
    assert len(sides) == 1
    seen = {request.field(b"mcp-session-id")[0] for side in Side for request in plane.sides[side].requests}
    assert seen == {b"s%d" % n for n in range(5)}
