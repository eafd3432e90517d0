"""Whole answers: what makes them equal, different, or not to be compared."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest

from gateway.core.compare.answers import Answer, Comparer, Pairing, Result, Why
from gateway.core.compare.rules import ComparisonRules, Rule

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


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (b"/a", b"/b", False),
        (b"http://old:9001/a?x=1", b"https://new.example/a?x=1", True),
        (b"http://old:9001/a", b"/a", True),
        (b"//old/a", b"http://new/a", True),
        (b"http://old", b"http://new/", True),
        (b"http://old/a?x=1", b"http://new/a?x=2", False),
        (b"mailto:a@old", b"mailto:a@new", False),
        (b"a/b", b"/a/b", False),
    ],
)
def test_a_place_is_compared_without_the_host_of_the_side(one: bytes, other: bytes, is_same: bool) -> None:
    left, right = answer(b"", 302, (b"location", one)), answer(b"", 302, (b"location", other))
    assert verdict(left, right) == (MATCH if is_same else differs("header:location header"))


def test_of_a_redirect_the_place_counts_and_not_what_is_said_besides() -> None:
    place = (b"location", b"/a")
    assert verdict(answer(b"see here", 302, place), answer(b"see there", 302, place)) == MATCH
    assert verdict(answer(b"", 302, place), answer(b"", 307, place)) == differs("status status")


def test_whether_there_is_an_etag_counts_and_not_which() -> None:
    one, other = (b"etag", b'"a"'), (b"etag", b'W/"b"')
    assert verdict(answer({}, 200, JSON, one), answer({}, 200, JSON, other)) == MATCH
    assert verdict(answer({}, 200, JSON, one), answer({}, 200, JSON)) == differs("header:etag header")


def test_a_second_content_type_is_not_ignored() -> None:
    twice = answer({}, 200, JSON, (b"content-type", b"text/html"))
    assert verdict(answer({}), twice) == differs("header:content-type header")
    assert verdict(twice, answer({"a": 1}, 200, JSON, (b"content-type", b"text/html"))) == differs("$.a extra")


def test_of_two_refusals_the_status_and_the_code_count() -> None:
    def refusal(status: int = 404, **members: object) -> Answer:
        return answer({"status": status, **members}, status)

    one = refusal(code="not_found", message="no such file a")
    assert verdict(one, refusal(code="not_found", message="there is no a", trace="x")) == MATCH
    assert verdict(one, refusal(code="path_refused", message="no such file a")) == differs("code value")
    assert verdict(one, refusal(409, code="not_found")) == differs("status status")
    assert verdict(one, refusal()) == differs("code missing")
    assert verdict(refusal(), one) == differs("code extra")
    assert verdict(answer(b"gone", 410, (b"content-type", b"text/plain")), answer(b"", 410)) == MATCH
    assert verdict(one, answer({}))[0] == "differs"


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


def test_equal_failures_agree_in_nothing() -> None:
    failed = answer({"code": "internal", "status": 500, "retryable": False}, 409)
    pairing = Pairing(failure_codes=frozenset({"internal"}))
    assert verdict(failed, failed, pairing) == incomparable(Why.BOTH_FAILED)
    packed = answer(gzip.compress(failed.body), 409, JSON, (b"content-encoding", b"gzip"))
    assert verdict(packed, packed, pairing) == incomparable(Why.BOTH_FAILED)
    assert verdict(failed, failed) == MATCH
    assert verdict(answer({"code": "a"}), answer({"code": "a"}), pairing) == MATCH


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


def test_a_text_may_be_normalised_before_it_is_compared() -> None:
    text = (b"content-type", b"text/plain")
    left = answer(b"run 6a1f1e0c-0000-4000-8000-000000000001 at 2026-01-01T00:00:00Z: ok", 200, text)
    right = answer(b"run 7b1f1e0c-0000-4000-8000-0000000000ff at 2026-02-01T00:00:00Z: ok", 200, text)
    rules = {"$": Rule(normalise=("uuid", "time"))}
    assert verdict(left, right, by_path=rules) == MATCH
    assert verdict(left, answer(right.body + b"?", 200, text), by_path=rules) == differs("body body")
    assert verdict(left, answer(b"\xff", 200, text), by_path=rules) == differs("body body")
    assert verdict(left, right) == differs("body body")


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


def test_whether_an_answer_of_mcp_comes_as_a_stream_does_not_count() -> None:
    message = rpc(tool({"a": 1}))
    assert verdict(answer(message), stream(message), MCP) == MATCH
    assert verdict(answer(message), stream(message))[0] == "differs"
    html = answer(json.dumps(message).encode(), 200, (b"content-type", b"text/html"))
    assert verdict(answer(message), html, MCP) == differs("header:content-type header", "body body")


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
    assert verdict(failed, failed, MCP) == incomparable(Why.BOTH_FAILED)
    assert verdict(refused, refused, MCP) == MATCH
    reworded = answer(rpc(tool({"code": "not_found", "message": "y", "retryable": False}, is_error=True)))
    assert verdict(refused, reworded, MCP) == MATCH
    other = answer(rpc(tool({"code": "too_large", "message": "x", "retryable": False}, is_error=True)))
    assert verdict(refused, other, MCP) == differs("code value")
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "a", "data": {"code": "x"}}}
    same = {"jsonrpc": "2.0", "id": 2, "error": {"code": -32603, "message": "b", "data": {"code": "x"}}}
    assert verdict(answer(error), answer(same), MCP) == MATCH
