"""Which operation a request is: routes, MCP headers, MCP bodies.

Decides on the normalised path and refuses what two programs could read differently. It must not know sides or shares.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from gateway.core.model import Definition, ErrorCode, Headers
from gateway.core.paths import NormalPath, PathPrefixes, Segments, normalise
from gateway.core.refusal import JSONRPC_INVALID_REQUEST, JSONRPC_PARSE_ERROR, Refusal

HEADER_ROUTED_MCP_VERSIONS: Final = frozenset({b"2026-07-28"})
"""MCP versions whose servers check `Mcp-Method` and `Mcp-Name` against the body; on all others these fields can lie."""

BODY_DEPTH_LIMIT: Final = 100

_REFUSED_METHODS: Final = frozenset({"TRACE", "CONNECT"})
COMMON_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REMEMBERED_PATHS: Final = 4096
_REMEMBERED_PATH_BYTES: Final = 128
_BASE64_VALUE: Final = re.compile(rb"=\?base64\?(.*)\?=", re.DOTALL)

_Found = tuple[str, tuple[tuple[int, str], ...]]
"""An operation and its parameters: position in the path, name."""


@dataclass(slots=True)
class Facts:
    """What is known of a request when its headers are complete.

    Attributes:
        method: As sent.
        path: Raw path of the target.
        query: Raw query without `?`.
        headers: End-to-end fields (hop-by-hop ones already removed), lower-case names.
        client_address: The client, seen through trusted proxies.
    """

    method: str
    path: bytes
    query: bytes
    headers: Headers
    client_address: str


@dataclass(frozen=True, slots=True)
class Classified:
    """What a request is, as far as its headers tell.

    Attributes:
        operation: Its name, or None when no operation matches (yet).
        params: Values of the route's `{name}` segments.
        is_mcp: It came to the MCP path; own errors take the JSON-RPC shape.
        body_names_operation: The operation stands in the MCP body: read it and call `classify_mcp_body`.
    """

    operation: str | None
    params: Mapping[str, str] = field(default_factory=dict)
    is_mcp: bool = False
    body_names_operation: bool = False


class UnreadableBodyError(Exception):
    """A body that routing wanted to read is no JSON at all. Doubt, not refusal: the side may know better."""


class _Node:
    """One segment of the template tree."""

    __slots__ = ("literals", "methods", "param")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.param: _Node | None = None
        self.methods: dict[str, tuple[str, tuple[tuple[int, str], ...]]] = {}


class Router:
    """Matches requests to operations. Cost does not grow with their number."""

    def __init__(self, definition: Definition) -> None:
        self._mcp_segments = tuple(definition.mcp_path.split("/")[1:]) if definition.mcp_path else None
        self._mcp_stateless = definition.mcp_stateless
        self._denied = PathPrefixes(definition.deny_paths)
        self._literal: dict[tuple[str, Segments], str] = {}
        self._root = _Node()
        self._tools: dict[str, str] = {}
        # Paths that were let through before. Bounded, because clients choose them.
        self._known: dict[tuple[str, bytes], Classified] = {}
        prefixes: set[str | None] = {definition.mcp_path}
        for operation in definition.operations.values():
            if operation.mcp is not None:
                self._tools[operation.mcp] = operation.name
            for rest in operation.rest:
                prefixes.add(self._add(operation.name, rest.method, rest.segments))
        # Below the root itself is everything; only a route that begins with a parameter really claims that.
        self._claimed = PathPrefixes(prefix for prefix in prefixes if prefix is not None)

    def _add(self, operation: str, method: str, segments: Segments) -> str | None:
        """Adds a route; gives its static prefix, or None for the root alone."""
        static: list[str] = []
        params: list[tuple[int, str]] = []
        node = self._root
        for at, segment in enumerate(segments):
            if segment.startswith("{"):
                params.append((at, segment[1:-1]))
                node.param = node.param or _Node()
                node = node.param
            else:
                if not params:
                    static.append(segment)
                node = node.literals.setdefault(segment, _Node())
        node.methods[method] = (operation, tuple(params))
        if not params:
            self._literal[method, segments] = operation
        return None if static == [""] else "/" + "/".join(static)

    def classify(self, facts: Facts) -> Classified:
        """Finds the operation as far as method, path and headers tell.

        Raises:
            Refusal: The request is answered by the gateway: method or path it never forwards, ambiguous path, ambiguous
                MCP headers.
        """
        if facts.method in _REFUSED_METHODS:
            raise Refusal(
                ErrorCode.METHOD_NOT_ALLOWED, f"{facts.method} is not forwarded", close=True, allow=COMMON_METHODS
            )
        route = facts.method, facts.path
        known = self._known.get(route)
        if known is None:
            known = self._classify_path(facts.method, facts.path)
            if len(facts.path) <= _REMEMBERED_PATH_BYTES:
                if len(self._known) >= _REMEMBERED_PATHS:
                    self._known.clear()
                self._known[route] = known
        return self._classify_mcp(facts) if known.is_mcp else known

    def _classify_path(self, method: str, raw_path: bytes) -> Classified:
        """What method and path alone tell."""
        path = normalise(raw_path)
        if self._denied.may_hold(path):
            raise Refusal(ErrorCode.NOT_FOUND, "no such path")
        if path.hostile and self._claimed.may_hold(path):
            raise Refusal(
                ErrorCode.BAD_REQUEST,
                "the path holds an encoded slash, backslash or NUL or a broken escape; send it in its plain form",
            )
        if path.segments == self._mcp_segments:
            _refuse_changed(path)
            return Classified(None, is_mcp=True)
        found = self._match(method, path.segments)
        if found is None:
            for reading in path.other_readings():
                if reading == self._mcp_segments or self._match(method, reading) is not None:
                    raise Refusal(ErrorCode.BAD_REQUEST, f"ambiguous path; some read it as /{'/'.join(reading)}")
            return Classified(None)
        _refuse_changed(path)
        name, params = found
        return Classified(name, {param: path.segments[at] for at, param in params})

    def _match(self, method: str, segments: Segments) -> _Found | None:
        found = self._match_exactly(method, segments)
        # RFC 9110 §9.3.2: HEAD is GET without the body, so it goes where GET goes.
        return self._match_exactly("GET", segments) if found is None and method == "HEAD" else found

    def _match_exactly(self, method: str, segments: Segments) -> _Found | None:
        operation = self._literal.get((method, segments))
        if operation is not None:
            return operation, ()
        return self._walk(self._root, segments, 0, method)

    def _walk(self, node: _Node, segments: Segments, at: int, method: str) -> _Found | None:
        if at == len(segments):
            return node.methods.get(method)
        literal = node.literals.get(segments[at])
        if literal is not None:
            found = self._walk(literal, segments, at + 1, method)
            if found is not None:
                return found
        if node.param is not None and segments[at]:
            return self._walk(node.param, segments, at + 1, method)
        return None

    def _classify_mcp(self, facts: Facts) -> Classified:
        if self._mcp_stateless and facts.method in ("GET", "DELETE", "HEAD"):
            raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, "this MCP endpoint keeps no sessions: POST only", allow="POST")
        single = _single_fields(facts.headers)
        if facts.method != "POST":
            return Classified(None, is_mcp=True)
        version, method, tool = (single.get(name) for name in (b"mcp-protocol-version", b"mcp-method", b"mcp-name"))
        if version not in HEADER_ROUTED_MCP_VERSIONS or method is None:
            return Classified(None, is_mcp=True, body_names_operation=True)
        if method != b"tools/call":
            return Classified(None, is_mcp=True)
        name = _decode_field(tool) if tool is not None else None
        if name is None:
            return Classified(None, is_mcp=True, body_names_operation=True)
        return Classified(self._tools.get(name), is_mcp=True)

    def is_mcp_path(self, raw_path: bytes) -> bool:
        """Whether a path is the MCP endpoint's, however it was written."""
        path = normalise(raw_path)
        return self._mcp_segments in (path.segments, *path.other_readings())

    def classify_mcp_body(self, message: object) -> str | None:
        """The operation that an MCP message calls, or None when it calls none that is configured.

        Args:
            message: The parsed body.

        Raises:
            Refusal: A batch, or no JSON-RPC message at all.
        """
        if isinstance(message, list):
            raise Refusal(ErrorCode.BAD_REQUEST, "batches are not accepted", rpc_code=JSONRPC_INVALID_REQUEST)
        if not isinstance(message, dict):
            raise Refusal(ErrorCode.BAD_REQUEST, "not a JSON-RPC message", rpc_code=JSONRPC_INVALID_REQUEST)
        tool = tool_of(message)
        return self._tools.get(tool) if tool is not None else None


def tool_of(message: Mapping[str, object]) -> str | None:
    """The tool that a `tools/call` message names, or None."""
    if message.get("method") != "tools/call":
        return None
    params = message.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    return name if isinstance(name, str) else None


def arguments_of(message: object, *, is_mcp: bool) -> Mapping[str, object] | None:
    """Where `argument:` key sources look: the members of a JSON body, or the arguments of an MCP call."""
    if not isinstance(message, dict):
        return None
    if not is_mcp:
        return message
    params = message.get("params")
    arguments = params.get("arguments") if isinstance(params, dict) else None
    return arguments if isinstance(arguments, dict) else None


def parse_body(body: bytes) -> object:
    """Parses a JSON body that routing reads.

    Raises:
        Refusal: JSON that two parsers may read differently: duplicate member names, NaN or infinities, depth > 100.
        UnreadableBodyError: No JSON in UTF-8.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise UnreadableBodyError("not UTF-8") from exc
    # Bytes that open something bound the depth from above; only a suspicious body pays for the exact count.
    if body.count(b"{") + body.count(b"[") > BODY_DEPTH_LIMIT and _depth(text) > BODY_DEPTH_LIMIT:
        _refuse_json(f"nesting deeper than {BODY_DEPTH_LIMIT}")
    try:
        return json.loads(text, object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except ValueError as exc:
        raise UnreadableBodyError("not JSON") from exc


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        _refuse_json("a member name occurs twice")
    return members


def _refuse_constant(constant: str) -> NoReturn:
    _refuse_json(f"{constant} is no JSON number")


def _refuse_json(what: str) -> NoReturn:
    raise Refusal(ErrorCode.BAD_REQUEST, f"ambiguous JSON body: {what}", rpc_code=JSONRPC_PARSE_ERROR)


# Possessive, and the closing quote optional: a body of half-open strings costs one pass, not one for each quote.
_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


def _refuse_changed(path: NormalPath) -> None:
    if path.changed:
        raise Refusal(ErrorCode.BAD_REQUEST, f"ambiguous path; send it as {path.plain_spelling}")


def _single_fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The `Mcp-*` and `MCP-Protocol-Version` fields.

    Raises:
        Refusal: One of the `Mcp-*` or `MCP-Protocol-Version` fields stands twice.
    """
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(b"mcp-"):
            if name in seen:
                raise Refusal(
                    ErrorCode.BAD_REQUEST,
                    f"header {name.decode('latin-1')} occurs twice",
                    rpc_code=JSONRPC_INVALID_REQUEST,
                )
            seen[name] = value.strip(b" \t")
    return seen


def _decode_field(value: bytes) -> str | None:
    """An MCP header value: plain, or base64 between `=?base64?` and `?=` (MCP 2026-07-28, SEP-2243).

    None when it cannot be read; then the body tells.
    """
    encoded = _BASE64_VALUE.fullmatch(value)
    try:
        return base64.b64decode(encoded[1], validate=True).decode() if encoded else value.decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
