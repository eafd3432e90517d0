from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.classify import (
    BODY_DEPTH_LIMIT,
    Classified,
    Facts,
    Router,
    UnreadableBodyError,
    arguments_of,
    parse_body,
    tool_of,
)
from gateway.core.model import ErrorCode, Headers, Writes
from gateway.core.refusal import JSONRPC_INVALID_REQUEST, JSONRPC_PARSE_ERROR, Refusal
from tests.unit.core.migrations import READ, WRITE, definition, operation, workspace

TODAY = b"2026-07-28"
ITEMS = definition(
    [
        operation("item.get", READ, "GET /v1/items/{id}"),
        operation("item.put", WRITE, "PUT /v1/items/{id}", "PATCH /v1/items/{id}"),
        operation("item.parts", READ, "GET /v1/items/{id}/parts/{part}"),
        operation("git.status", READ, "POST /v1/git/status", mcp="git_status"),
        operation("git.push", WRITE, "POST /v1/git/push", mcp="git_push"),
        operation("café", READ, "GET /v1/café menu"),
    ]
)
ROUTER = Router(ITEMS)


def facts(path: bytes, method: str = "POST", *headers: tuple[bytes, bytes]) -> Facts:
    return Facts(method, path, b"", list(headers), "203.0.113.7")


def refusal_of(call: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


def refused(path: bytes, method: str = "POST", router: Router = ROUTER) -> ErrorCode:
    return refusal_of(lambda: router.classify(facts(path, method))).code


# --- REST routes ---


def test_method_and_path_name_the_operation() -> None:
    assert ROUTER.classify(facts(b"/v1/git/status")) == Classified("git.status")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", b"/v1/git/status"),
        ("post", b"/v1/git/status"),
        ("POST", b"/v1/git/Status"),
        ("POST", b"/v1/git"),
        ("POST", b"/v1/git/status/x"),
        ("GET", b"/v1/items"),
        ("GET", b"/v1/items/7/parts"),
        ("OPTIONS", b"*"),
        ("POST", b"/"),
        ("POST", b""),
    ],
)
def test_what_no_operation_matches_is_nobodys(method: str, path: bytes) -> None:
    assert ROUTER.classify(facts(path, method)) == Classified(None)


@pytest.mark.parametrize(
    ("path", "name", "params"),
    [
        (b"/v1/items/7", "item.get", {"id": "7"}),
        (b"/v1/items/caf%C3%A9%20x", "item.get", {"id": "café x"}),
        (b"/v1/items/a%3Bb", "item.get", {"id": "a;b"}),
        (b"/v1/items/%7Bid%7D", "item.get", {"id": "{id}"}),
        (b"/v1/items/7/parts/9", "item.parts", {"id": "7", "part": "9"}),
        (b"/v1/caf%c3%a9%20menu", "café", {}),
    ],
)
def test_a_template_stands_for_one_segment_each_and_gives_it_decoded(
    path: bytes, name: str, params: dict[str, str]
) -> None:
    assert ROUTER.classify(facts(path, "GET")) == Classified(name, params)


def test_several_routes_name_one_operation() -> None:
    names = {ROUTER.classify(facts(b"/v1/items/7", method)).operation for method in ("PUT", "PATCH")}
    assert names == {"item.put"}


def test_a_text_and_a_parameter_at_one_place_are_kept_apart_by_what_follows() -> None:
    router = Router(definition([operation("a", READ, "GET /x/me/a"), operation("b", READ, "GET /x/{who}/b")]))
    assert router.classify(facts(b"/x/me/a", "GET")).operation == "a"
    assert router.classify(facts(b"/x/me/b", "GET")) == Classified("b", {"who": "me"})


def test_head_follows_get_unless_it_has_a_route_of_its_own() -> None:
    router = Router(definition([operation("get", READ, "GET /x/{id}", "GET /y"), operation("head", READ, "HEAD /y")]))
    assert router.classify(facts(b"/x/7", "HEAD")) == Classified("get", {"id": "7"})
    assert router.classify(facts(b"/y", "HEAD")).operation == "head"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_trace_and_connect_are_never_forwarded(method: str) -> None:
    refusal = refusal_of(lambda: ROUTER.classify(facts(b"/v1/git/status", method)))
    assert (refusal.code, refusal.close) == (ErrorCode.METHOD_NOT_ALLOWED, True)
    assert refusal.allow is not None
    assert "GET" in refusal.allow
    assert method not in refusal.allow


# --- one path, many spellings ---


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/git/status/",
        b"/v1//git/status",
        b"//v1/git/status",
        b"/v1/./git/status",
        b"/v1/x/../git/status",
        b"/v1//../git/status",
        b"/v1/git/status;x=1",
        b"/v1;x/git/status",
        b"/v1/git/status%3Bx",
        b"/v1/git/%73tatus",
        b"/v1/%2e/git/status",
        b"/v1%2Fgit/status",
        b"/v1%2fgit%2fstatus",
        b"/v1\\git\\status",
        b"/v1%5Cgit/status",
        b"/v1/git/status%00",
        b"/v1/git/sta%00tus",
        b"/v1/git/status%00.png",
        b"/v1/git/status/a%2Fb",
        b"/v1/git/status/%",
        b"/x;%2F..%2Fv1/git/status",
    ],
)
def test_another_spelling_of_a_configured_path_is_refused(path: bytes) -> None:
    assert refused(path) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/items/a%2Fb",
        b"/v1/items/..%2F..%2Fv1%2Fgit",
        b"/v1/items/x%2F..%2F..%2Fother",
        b"/v1/items/a%5Cb",
        b"/v1/items/a\\b",
        b"/v1/items/7%00",
        b"/v1/items/%zz",
        b"/v1/items/7/",
        b"/v1/items/7;x",
        b"/v1/items/%37",
    ],
)
def test_a_parameter_never_holds_what_programs_read_differently(path: bytes) -> None:
    assert refused(path, "GET") is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    "path", [b"/a%2Fb", b"/a\\b", b"/a%00", b"/%zz", b"/api/v1%2Fgit/status", b"/a/../b", b"/a//b/", b"/a;b", b"/%61"]
)
def test_elsewhere_any_spelling_passes_to_the_default_route(path: bytes) -> None:
    assert ROUTER.classify(facts(path)) == Classified(None)


def test_the_refusal_names_the_plain_spelling() -> None:
    refusal = refusal_of(lambda: ROUTER.classify(facts(b"/v1//caf%C3%A9%20menu", "GET")))
    assert "/v1/caf%C3%A9%20menu" in refusal.message


def test_a_route_to_the_root_claims_the_root_alone() -> None:
    router = Router(definition([operation("home", READ, "GET /")]))
    assert router.classify(facts(b"/", "GET")).operation == "home"
    assert router.classify(facts(b"/a%2Fb", "GET")).operation is None
    assert refused(b"//", "GET", router) is ErrorCode.BAD_REQUEST
    assert refused(b"/%2F", "GET", router) is ErrorCode.BAD_REQUEST


def test_a_route_that_begins_with_a_parameter_claims_everything_below_the_root() -> None:
    router = Router(definition([operation("any", READ, "GET /{tenant}/x")]))
    assert refused(b"/a%2Fb", "GET", router) is ErrorCode.BAD_REQUEST


SEPARATORS = ["/", "//", "/./", "/x/../", "/x/%2e%2E/", "/;p/", "/x;p/../", "%2F", "%2f", "\\", "%5C", "%5c", "//../"]
ENDS = ["", "/", "//", "/.", "/x/..", ";p", ";p=%2F", "%3Bp", "%00", "%00x", "/;x"]


@st.composite
def spellings(draw: st.DrawFn, path: str) -> bytes:
    """The path, written so that some program still takes it for the path."""
    out = ""
    for segment in path.split("/")[1:]:
        out += draw(st.sampled_from(["/", "/", *SEPARATORS]))
        at = draw(st.integers(0, len(segment) - 1))
        how = draw(st.sampled_from(["plain", "plain", "lower", "upper", "nul", "parameter", "encoded parameter"]))
        match how:
            case "lower" | "upper":
                escape = f"%{ord(segment[at]):02x}"
                segment = segment[:at] + (escape if how == "lower" else escape.upper()) + segment[at + 1 :]
            case "nul":
                segment = segment[:at] + "%00" + segment[at:]
            case "parameter":
                segment += ";x=1"
            case "encoded parameter":
                segment += "%3Bx"
        out += segment
    # An encoded slash in front is part of a first segment; there a request always begins with a slash.
    out = out if out.startswith("/") else "/" + out
    return (out + draw(st.sampled_from(ENDS))).encode()


@given(spellings("/v1/git/status"))
@example(b"/v1/git/status")
def test_no_spelling_of_a_configured_path_reaches_the_default_route_silently(path: bytes) -> None:
    if path == b"/v1/git/status":
        assert ROUTER.classify(facts(path)).operation == "git.status"
    else:
        assert refused(path) is ErrorCode.BAD_REQUEST


@given(spellings("/mcp"))
def test_no_spelling_of_the_mcp_path_reaches_the_default_route_silently(path: bytes) -> None:
    if path == b"/mcp":
        assert ROUTER.classify(facts(path)).is_mcp
    else:
        assert refused(path) is ErrorCode.BAD_REQUEST


@given(spellings("/v1/workspaces"), st.sampled_from(["", "/", "/7", "/../git/status", "/..", "%2F7"]))
def test_a_denied_path_cannot_be_reached_by_any_spelling(path: bytes, rest: str) -> None:
    assert refused(path + rest.encode()) is ErrorCode.NOT_FOUND


@given(st.binary(max_size=80), st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "BREW", ""]))
@example(b"/" + b"\xff" * 5, "GET")
@example(b"/v1/items/\xff", "GET")
def test_no_path_raises_anything_but_a_refusal(path: bytes, method: str) -> None:
    try:
        classified = ROUTER.classify(facts(path, method))
    except Refusal as refusal:
        refused_as = refusal
    else:
        assert classified.operation is None or classified.operation in ITEMS.operations
        return
    assert json.dumps(refused_as.message).isascii()


def test_deny_comes_before_any_other_answer_and_holds_for_every_method() -> None:
    router = Router(workspace(Writes.NONE, deny_paths=("/v1/workspaces", "/v1/git")))
    assert refused(b"/v1/git/status", "POST", router) is ErrorCode.NOT_FOUND
    for method in ("GET", "HEAD", "DELETE", "BREW"):
        assert refused(b"/v1/workspaces", method, router) is ErrorCode.NOT_FOUND


def calls_of(act: Callable[[], Any]) -> int:
    """How many function calls something takes."""
    count = 0

    def profile(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    "path", [b"/v1/op7/run", b"/v1/thing7/abc", b"/nothing/here", b"/v1/thing7/abc/x", b"/a%2Fb/../c", b"/v1/%zz"]
)
def test_a_thousand_operations_cost_what_ten_cost(path: bytes) -> None:
    def router(size: int) -> Router:
        routes = ([f"POST /v1/op{n}/run", f"POST /v1/thing{n}/{{id}}"] for n in range(size))
        return Router(definition([operation(f"op{n}", READ, *pair) for n, pair in enumerate(routes)]))

    few, many = router(10), router(1000)

    def classify(by: Router) -> None:
        try:
            by.classify(facts(path))
        except Refusal:
            return

    assert calls_of(lambda: classify(few)) == calls_of(lambda: classify(many))


# --- MCP ---


def call(tool: object = "git_push", **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, **params}}


def mcp(*headers: tuple[bytes, bytes], method: str = "POST") -> Classified:
    return ROUTER.classify(facts(b"/mcp", method, *headers))


BODY_DECIDES = Classified(None, is_mcp=True, body_names_operation=True)
NO_TOOL = Classified(None, is_mcp=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], BODY_DECIDES),
        ([(b"mcp-method", b"tools/call"), (b"mcp-name", b"git_push")], BODY_DECIDES),
        (
            [(b"mcp-protocol-version", b"2025-11-25"), (b"mcp-method", b"tools/call"), (b"mcp-name", b"git_push")],
            BODY_DECIDES,
        ),
        (
            [(b"mcp-protocol-version", b"2027-01-01"), (b"mcp-method", b"tools/call"), (b"mcp-name", b"git_push")],
            BODY_DECIDES,
        ),
        ([(b"mcp-protocol-version", TODAY)], BODY_DECIDES),
        ([(b"mcp-protocol-version", TODAY), (b"mcp-method", b"tools/call")], BODY_DECIDES),
        (
            [(b"mcp-protocol-version", TODAY), (b"mcp-method", b"tools/call"), (b"mcp-name", b"git_push")],
            Classified("git.push", is_mcp=True),
        ),
        (
            [(b"mcp-protocol-version", b" 2026-07-28\t"), (b"mcp-method", b"tools/call "), (b"mcp-name", b" git_push")],
            Classified("git.push", is_mcp=True),
        ),
        ([(b"mcp-protocol-version", TODAY), (b"mcp-method", b"tools/call"), (b"mcp-name", b"Git_Push")], NO_TOOL),
        ([(b"mcp-protocol-version", TODAY), (b"mcp-method", b"tools/list")], NO_TOOL),
        ([(b"mcp-protocol-version", TODAY), (b"mcp-method", b"server/discover"), (b"mcp-name", b"git_push")], NO_TOOL),
    ],
)
def test_mcp_headers_route_on_the_version_that_checks_them_only(headers: Headers, expected: Classified) -> None:
    assert mcp(*headers) == expected


def named(value: bytes) -> Classified:
    return mcp((b"mcp-protocol-version", TODAY), (b"mcp-method", b"tools/call"), (b"mcp-name", value))


def test_a_tool_name_may_come_in_base64() -> None:
    assert named(b"=?base64?" + base64.b64encode(b"git_push") + b"?=").operation == "git.push"


@pytest.mark.parametrize(
    "value",
    [
        b"=?base64?!!!!?=",
        b"=?base64?Z2l0X3B1c2g?=",
        b"=?base64?/w==?=",
        b"=?base64?Z2l0 X3B1c2g=?=",
        b"git_p\xc3\xbcsh",
    ],
)
def test_a_tool_name_that_cannot_be_read_is_looked_up_in_the_body(value: bytes) -> None:
    assert named(value) == BODY_DECIDES


@pytest.mark.parametrize(
    "name", [b"mcp-method", b"mcp-name", b"mcp-protocol-version", b"mcp-session-id", b"mcp-param-x"]
)
@pytest.mark.parametrize("values", [(b"a", b"b"), (b"a", b"a")])
def test_a_duplicated_mcp_header_is_refused_on_the_mcp_path_only(name: bytes, values: tuple[bytes, bytes]) -> None:
    twice = [(name, value) for value in values]
    refusal = refusal_of(lambda: mcp(*twice))
    assert (refusal.code, refusal.rpc_code) == (ErrorCode.BAD_REQUEST, JSONRPC_INVALID_REQUEST)
    assert ROUTER.classify(facts(b"/v1/git/push", "POST", *twice)).operation == "git.push"


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_a_stateless_mcp_endpoint_answers_post_only(method: str) -> None:
    refusal = refusal_of(lambda: mcp(method=method))
    assert (refusal.code, refusal.allow) == (ErrorCode.METHOD_NOT_ALLOWED, "POST")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_stateful_mcp_endpoint_keeps_its_stream_and_its_end_of_session(method: str) -> None:
    router = Router(workspace(Writes.NONE, mcp_stateless=False))
    assert router.classify(facts(b"/mcp", method)) == NO_TOOL
    twice = [(b"mcp-session-id", b"a"), (b"mcp-session-id", b"b")]
    assert refusal_of(lambda: router.classify(facts(b"/mcp", method, *twice))).code is ErrorCode.BAD_REQUEST


def test_without_an_mcp_path_there_is_no_mcp() -> None:
    router = Router(definition([operation("a")], mcp_path=None))
    assert router.classify(facts(b"/mcp")) == Classified(None)
    assert not router.is_mcp_path(b"/mcp")


@pytest.mark.parametrize(
    ("path", "is_mcp"),
    [(b"/mcp", True), (b"/mcp/", True), (b"/x/../mcp", True), (b"/mcp%2F", True), (b"/mcp/x", False), (b"/", False)],
)
def test_errors_on_the_mcp_path_know_it_however_it_was_written(path: bytes, is_mcp: bool) -> None:
    assert ROUTER.is_mcp_path(path) is is_mcp


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (call("git_push"), "git.push"),
        (call("unknown"), None),
        (call("\ud800"), None),
        (call(7), None),
        (call(None), None),
        ({"method": "tools/call"}, None),
        ({"method": "tools/call", "params": ["git_push"]}, None),
        ({"method": "tools/list", "params": {"name": "git_push"}}, None),
        ({"method": ["tools/call"], "params": {"name": "git_push"}}, None),
        ({"result": {}}, None),
        ({}, None),
    ],
)
def test_the_body_of_a_tool_call_names_the_operation(message: dict[str, object], name: str | None) -> None:
    assert ROUTER.classify_mcp_body(message) == name


@pytest.mark.parametrize("message", [[], [call()], "x", 7, 1.5, None, True])
def test_a_batch_and_what_is_no_message_are_refused(message: object) -> None:
    refusal = refusal_of(lambda: ROUTER.classify_mcp_body(message))
    assert (refusal.code, refusal.rpc_code) == (ErrorCode.BAD_REQUEST, JSONRPC_INVALID_REQUEST)


@pytest.mark.parametrize(
    ("message", "is_mcp", "arguments"),
    [
        ({"agent_id": "a"}, False, {"agent_id": "a"}),
        (call(arguments={"agent_id": "a"}), True, {"agent_id": "a"}),
        (call(arguments=None), True, None),
        (call(arguments=["a"]), True, None),
        (call(), True, None),
        ({"params": None}, True, None),
        ([{"agent_id": "a"}], False, None),
        ("text", False, None),
        (None, True, None),
    ],
)
def test_arguments_are_the_members_of_a_body_or_those_of_a_tool_call(
    message: object, is_mcp: bool, arguments: dict[str, object] | None
) -> None:
    assert arguments_of(message, is_mcp=is_mcp) == arguments


def test_a_tool_is_named_by_a_tool_call_alone() -> None:
    assert tool_of(call("git_push")) == "git_push"
    assert tool_of({"method": "prompts/get", "params": {"name": "git_push"}}) is None


# --- bodies ---


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1, "b": {"a": 2}}', {"a": 1, "b": {"a": 2}}),
        (b" [1, 2.5, null, true] \n", [1, 2.5, None, True]),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        ('{"ключ": "é"}'.encode(), {"ключ": "é"}),
        (b"-0", 0),
        (b"1" + b"0" * 400, 10**400),
    ],
)
def test_a_plain_body_is_read(body: bytes, message: object) -> None:
    assert parse_body(body) == message


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"x": [{"a": 1, "b": 2, "a": 3}]}',
        b"NaN",
        b'{"a": NaN}',
        b'{"a": [Infinity]}',
        b'{"a": -Infinity}',
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 100_000,
        b'["\\"' + b"[" * 5 + b'",' + b"[" * 100 + b"]" * 101,
    ],
)
def test_a_body_that_two_parsers_may_read_differently_is_refused(body: bytes) -> None:
    refusal = refusal_of(lambda: parse_body(body))
    assert (refusal.code, refusal.rpc_code) == (ErrorCode.BAD_REQUEST, JSONRPC_PARSE_ERROR)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * BODY_DEPTH_LIMIT + b"]" * BODY_DEPTH_LIMIT,
        json.dumps(["[" * 500, '"{' * 300, "\\"]).encode(),
        b"[" + b"[]," * 500 + b"[]]",
    ],
)
def test_depth_counts_nesting_and_not_brackets(body: bytes) -> None:
    assert parse_body(body) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{",
        b'{"a": 1} x',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": "\x01"}',
        b"\xff",
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32"),
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_in_utf_8_is_a_doubt_and_no_refusal(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError):
        parse_body(body)


def test_half_open_strings_do_not_cost_a_pass_for_each_quote() -> None:
    # With one pass for each quote this would be 10**12 steps: the suite would stop here for good.
    with pytest.raises(UnreadableBodyError):
        parse_body(b"[" * 50 + b"{}" * 60 + b'"' + b'\\"' * 1_000_000)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=20,
)


@given(JSON)
def test_every_plain_json_body_is_read_as_it_was_written(message: object) -> None:
    assert parse_body(json.dumps(message).encode()) == message


@given(st.one_of(st.binary(max_size=60), st.text('{}[]":,\\ab1NaN', max_size=40).map(str.encode)))
def test_no_body_raises_anything_but_refusal_or_doubt(body: bytes) -> None:
    try:
        parse_body(body)
    except (Refusal, UnreadableBodyError):
        return
