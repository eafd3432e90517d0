"""Whole answers: what makes them equal, different, or not to be compared."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest

from gateway.core.compare.answers import Answer, Comparer, Pairing, Result, Why
from gateway.core.compare.rules import ComparisonRules

JSON = (b"content-type", b"application/json")


def answer(body: object = None, status: int = 200, *fields: tuple[bytes, bytes]) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, list(fields) or [JSON], content)


def verdict(left: Answer, right: Answer, pairing: Pairing | None = None, **rules: Any) -> tuple[str, str, list[str]]:
    compared = Comparer(ComparisonRules(**rules), b"secret").compare(left, right, pairing or Pairing())
    return compared.result.value, str(compared.why), [f"{d.path} {d.kind}" for d in compared.differences]


def differs(*what: str) -> tuple[str, str, list[str]]:
    return Result.DIFFERS.value, "", list(what)


def incomparable(why: str) -> tuple[str, str, list[str]]:
    return Result.INCOMPARABLE.value, why, []


MATCH: tuple[str, str, list[str]] = (Result.MATCH.value, "", [])


def test_equal_answers_match_whatever_their_dates() -> None:
    left = answer({"a": 1}, 200, JSON, (b"date", b"now"), (b"set-cookie", b"a=1"))
    assert verdict(left, answer({"a": 1}, 200, JSON, (b"date", b"then"))) == MATCH


def test_members_in_another_order_match() -> None:
    assert verdict(answer(b'{"a":1,"b":2}'), answer(b'{"b": 2, "a": 1}')) == MATCH


def test_statuses_must_agree_unless_they_are_declared_equal() -> None:
    assert verdict(answer({}), answer({}, 201)) == differs("status status")
    assert verdict(answer({}), answer({}, 404)) == differs("status status")
    assert verdict(answer({}), answer({}, 204), equal_statuses=(frozenset({200, 204}),)) == MATCH


def test_chosen_headers_must_agree() -> None:
    left, right = answer(b"x", 200, (b"location", b"/a")), answer(b"x", 200, (b"location", b"/b"))
    assert verdict(left, right) == differs("header:location header")
    html = (b"content-type", b"text/html")
    assert verdict(answer({}), answer(b"{}", 200, html)) == differs("header:content-type header", "body body")
    assert verdict(answer({}), answer({}, 200, (b"content-type", b"application/json; charset=utf-8"))) == MATCH


def test_codings_are_undone() -> None:
    content = json.dumps({"a": "b" * 100}).encode()
    packed = [
        (b"gzip", gzip.compress(content)),
        (b"br", brotli.compress(content)),
        (b"deflate", zlib.compress(content)),
        (b"gzip, br", brotli.compress(gzip.compress(content))),
        (b"gzip", gzip.compress(content[:50]) + gzip.compress(content[50:])),
    ]
    for coding, body in packed:
        assert verdict(answer(content), answer(body, 200, JSON, (b"content-encoding", coding))) == MATCH


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate"])
def test_what_grows_beyond_bounds_is_not_unpacked(coding: str) -> None:
    content = b" " * (100 << 20)
    body = {"gzip": gzip.compress, "br": lambda c: brotli.compress(c, quality=1), "deflate": zlib.compress}[coding](
        content
    )
    bomb = answer(body, 200, JSON, (b"content-encoding", coding.encode()))
    assert verdict(bomb, answer({})) == incomparable(Why.UNDECODABLE)
    assert verdict(answer({}), bomb) == differs("body body")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", b"no gzip"),
        (b"gzip", gzip.compress(b"x" * 100, mtime=0)[:-5]),
        (b"br", brotli.compress(b"x" * 1000)[:-3]),
        (b"br", b"\xff\xff"),
        (b"zz", b"x"),
        (b"gzip, gzip, gzip, gzip", b"x"),
    ],
)
def test_what_cannot_be_unpacked(coding: bytes, body: bytes) -> None:
    broken = answer(body, 200, JSON, (b"content-encoding", coding))
    assert verdict(broken, answer({})) == incomparable(Why.UNDECODABLE)
    assert verdict(answer({}), broken) == differs("body body")


@pytest.mark.parametrize("broken", [b'{"a": 1', b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[" * 10_000, b"\xff"])
def test_json_that_is_none(broken: bytes) -> None:
    assert verdict(answer({"a": 1}), answer(broken)) == differs("body body")
    assert verdict(answer(broken), answer({"a": 1})) == differs("body body")
    assert verdict(answer(broken), answer(broken)) == MATCH
    assert verdict(answer(broken), answer(broken + b"?")) == incomparable(Why.UNREADABLE)


def test_a_failure_is_no_inconsistency() -> None:
    failed, well = answer({}, 503), answer({"a": 1})
    assert verdict(well, failed) == incomparable(Why.CANDIDATE_ERROR)
    assert verdict(failed, well) == incomparable(Why.BASELINE_ERROR)
    assert verdict(failed, failed) == incomparable(Why.BOTH_FAILED)
    assert verdict(failed, answer({"x": 1}, 500)) == incomparable(Why.BOTH_FAILED)
    # After the cutover new serves.
    assert verdict(well, failed, Pairing(left_is_old=False)) == incomparable(Why.BASELINE_ERROR)


def test_codes_that_blame_a_side_are_failures_and_others_are_answers() -> None:
    busy = answer({"code": "internal", "status": 500, "retryable": False}, 409)
    pairing = Pairing(failure_codes=frozenset({"internal"}))
    assert verdict(answer({}), busy, pairing) == incomparable(Why.CANDIDATE_ERROR)
    assert verdict(answer({}), busy)[0] == "differs"


def test_what_only_one_side_knows_is_set_apart() -> None:
    unknown = answer({"code": "unknown_workspace", "status": 404}, 404)
    codes: dict[str, Any] = {"incomparable_codes": frozenset({"unknown_workspace"})}
    assert verdict(answer({}), unknown, **codes) == incomparable("unknown_workspace")
    assert verdict(unknown, answer({}), **codes) == incomparable("unknown_workspace")
    assert verdict(unknown, unknown, **codes) == MATCH


def test_an_operation_may_be_declared_not_comparable() -> None:
    assert verdict(answer({}), answer({}), is_comparable=False) == incomparable(Why.DECLARED)


def test_text_is_compared_by_its_bytes() -> None:
    text = (b"content-type", b"text/plain")
    assert verdict(answer(b"a", 200, text), answer(b"a", 200, text)) == MATCH
    assert verdict(answer(b"a", 200, text), answer(b"b", 200, text)) == differs("body body")


def test_another_charset_is_compared_by_its_bytes() -> None:
    latin = (b"content-type", b"application/json; charset=iso-8859-1")
    assert verdict(answer(b'{"a": "\xe4"}', 200, latin), answer(b'{"a":"\xe4"}', 200, latin)) == differs("body body")


# --- MCP and streams -----------------------------------------------------------------------------------------------

MCP = Pairing(is_mcp=True, failure_codes=frozenset({"internal"}))
SSE = (b"content-type", b"text/event-stream")


def rpc(result: object, request_id: object = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def tool(structured: object, *, is_error: bool | None = None, meta: object = None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "content": [{"type": "text", "text": json.dumps(structured)}],
        "structuredContent": structured,
    }
    if is_error is not None:
        said["isError"] = is_error
    return {**said, "_meta": meta} if meta is not None else said


def stream(*messages: object, end: bytes = b"\n\n") -> Answer:
    body = b"".join(b"event: message\r\nid: 7\r\ndata: " + json.dumps(m).encode() + b"\r\n\r\n" for m in messages)
    return answer(body if end == b"\n\n" else body[:-2], 200, SSE)


def test_the_envelope_of_mcp_is_not_compared() -> None:
    left, right = answer(rpc(tool({"a": 1}, meta={"t": 1}))), answer(rpc(tool({"a": 1}, is_error=False), "x"))
    assert verdict(left, right, MCP) == MATCH


def test_text_blocks_are_compared_as_the_json_that_they_are() -> None:
    left = answer(rpc({"content": [{"type": "text", "text": '{"a": 1, "b": 2}'}]}))
    right = answer(rpc({"content": [{"type": "text", "text": '{"b":2,"a":1}'}]}))
    assert verdict(left, right, MCP) == MATCH
    other = answer(rpc({"content": [{"type": "text", "text": '{"b":2,"a":3}'}]}))
    assert verdict(left, other, MCP) == differs("$.content[*].text.a value")


def test_a_stream_is_compared_by_its_answer() -> None:
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    assert verdict(stream(progress, rpc(tool({"a": 1}))), stream(rpc(tool({"a": 1}))), MCP) == MATCH
    changed = verdict(stream(rpc(tool({"a": 1}))), stream(rpc(tool({"a": 2}))), MCP)
    assert changed == differs("$.content[*].text.a value", "$.structuredContent.a value")


def test_a_stream_that_was_cut_is_no_answer() -> None:
    assert verdict(stream(rpc({"a": 1})), stream(rpc({"a": 1}), end=b"")) == differs("body body")


def test_events_of_other_streams_are_compared_one_by_one() -> None:
    assert verdict(stream({"a": 1}, {"a": 2}), stream({"a": 1}, {"a": 3})) == differs("$[*].data.a value")
    assert verdict(stream({"a": 1}), stream({"a": 1}, {"a": 1})) == differs("$ length")


def test_errors_over_mcp() -> None:
    refused = answer(rpc(tool({"code": "not_found", "message": "x", "retryable": False}, is_error=True)))
    failed = answer(rpc(tool({"code": "internal", "message": "x", "retryable": False}, is_error=True)))
    well = answer(rpc(tool({"a": 1})))
    assert verdict(well, failed, MCP) == incomparable(Why.CANDIDATE_ERROR)
    assert verdict(well, refused, MCP)[0] == "differs"
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "a", "data": {"code": "x"}}}
    same = {"jsonrpc": "2.0", "id": 2, "error": {"code": -32603, "message": "b", "data": {"code": "x"}}}
    assert verdict(answer(error), answer(same), MCP) == MATCH
