from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.blame import HEARD_BYTES, Listener, is_listened_to
from gateway.core.model import Headers

CODES = frozenset({"internal", "deadline"})
JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [(b"content-type", b"text/event-stream")]


def call(code: str | None, *, is_error: bool = True) -> bytes:
    content = {"code": code, "message": "m", "retryable": True}
    text = [{"type": "text", "text": json.dumps(content)}]
    result = {"content": text, "structuredContent": content, "isError": is_error}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def events(message: bytes) -> bytes:
    note = b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'
    return note + b"event: message\r\ndata: " + message + b"\r\n\r\n"


def heard(status: int, headers: Headers, *pieces: bytes, is_mcp: bool = True) -> str | None:
    listener = Listener(status, headers, CODES, is_mcp=is_mcp)
    for piece in pieces:
        listener.hear(piece)
    return listener.failure()


@pytest.mark.parametrize(
    ("status", "headers", "body", "is_mcp", "wanted"),
    [
        (200, JSON, call("internal"), True, "internal"),
        (200, EVENTS, events(call("deadline")), True, "deadline"),
        (200, JSON, call("conflict"), True, None),
        (200, JSON, call("internal", is_error=False), True, None),
        (200, JSON, call(None), True, None),
        (
            200,
            JSON,
            b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"m","data":{"code":"internal"}}}',
            True,
            "internal",
        ),
        (200, JSON, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m"}}', True, None),
        (200, JSON, b'{"isError":true,', True, None),
        (200, JSON, b"", True, None),
        (200, [*JSON, (b"content-encoding", b"gzip")], gzip.compress(call("internal")), True, "internal"),
        (200, [*JSON, (b"content-encoding", b"gzip")], b"no gzip", True, None),
        (409, JSON, b'{"code":"internal","message":"m","retryable":false}', False, "internal"),
        (409, JSON, b'{"code":"conflict","message":"m","retryable":false}', False, None),
        (404, [(b"content-type", b"text/html")], b"<html>internal", False, None),
    ],
)
def test_what_blames_the_side(status: int, headers: Headers, body: bytes, is_mcp: bool, wanted: str | None) -> None:
    assert heard(status, headers, body, is_mcp=is_mcp) == wanted


def test_words_inside_of_content_are_none() -> None:
    text = json.dumps({"isError": True, "structuredContent": {"code": "internal"}})
    result = {"content": [{"type": "text", "text": text}], "isError": False}
    assert heard(200, JSON, json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()) is None


@given(st.lists(st.integers(1, 200), max_size=6))
def test_wherever_it_is_cut(cuts: list[int]) -> None:
    body, pieces = events(call("internal")), []
    for cut in cuts:
        pieces.append(body[:cut])
        body = body[cut:]
    assert heard(200, EVENTS, *pieces, body) == "internal"


def test_long_answers_are_not_kept() -> None:
    assert heard(200, JSON, b" " * HEARD_BYTES, call("internal")) is None


@given(st.binary(max_size=200), st.booleans())
def test_nothing_that_a_side_sends_breaks_it(body: bytes, is_mcp: bool) -> None:
    heard(200, JSON, b'{"isError":true' + body, is_mcp=is_mcp)
    heard(400, EVENTS, b'data: {"error":{' + body, is_mcp=is_mcp)


@pytest.mark.parametrize(
    ("status", "is_mcp", "wanted"),
    [(200, True, True), (200, False, False), (404, False, True), (202, True, False), (301, False, False)],
)
def test_which_answers_are_listened_to(status: int, is_mcp: bool, wanted: bool) -> None:
    assert is_listened_to(status, is_mcp=is_mcp) is wanted
