"""Compares the answers of two sides to one read: status, chosen headers, then what the bodies say.

equal bytes                               -> match
one side failed, or knows nothing of it   -> incomparable, with why
else                                      -> the differences, none of which shows a value
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gateway.core.compare.content import UndecodableError, decoded, events, is_json, media_type, values_of
from gateway.core.compare.difference import Difference, Kind
from gateway.core.compare.json_value import UnreadableError, parse
from gateway.core.compare.rule_tree import RuleTree
from gateway.core.compare.rules import ComparisonRules
from gateway.core.compare.tree import Walk, leaf_paths
from gateway.core.model import Headers

_SERVER_ERROR: Final = 500
_OK: Final = range(200, 300)
_CODE: Final = "code"
_EVENT_STREAM: Final = "text/event-stream"


class Result(StrEnum):
    """How two answers compare."""

    MATCH = "match"
    DIFFERS = "differs"
    INCOMPARABLE = "incomparable"


class Why(StrEnum):
    """Why two answers cannot be compared."""

    CANDIDATE_ERROR = "candidate_error"
    """New failed where old did not: an error, and counted as one, not as an inconsistency."""
    BASELINE_ERROR = "baseline_error"
    """Old failed where new did not."""
    BOTH_FAILED = "both_failed"
    UNREADABLE = "unreadable"
    """Both say that they send JSON, and do not, or nothing that can be compared."""
    UNDECODABLE = "undecodable"
    """The serving side's content coding cannot be undone, or not within bounds."""
    FAILED = "comparison_failed"
    """The comparison itself failed; the log says of what kind."""
    DECLARED = "declared"
    """The operation is declared not comparable."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a side.

    Attributes:
        status: Final status code.
        headers: As the side sent them, lower-case names.
        body: Whole, as it was sent.
    """

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Pairing:
    """What the two answers answer.

    Attributes:
        is_mcp: Whether they carry an MCP message.
        left_is_old: Whether the left answer, of the serving side, is old's.
        failure_codes: Codes of errors that blame the side.
    """

    is_mcp: bool = False
    left_is_old: bool = True
    failure_codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How two answers compare.

    Attributes:
        result: In a word.
        why: Of `incomparable`: one of `Why`, or a code of the operation's `incomparable_codes`.
        differences: Of `differs`.
        unnamed: Differences beyond those.
        leaves: Paths of the left answer's parts; asked for by learning alone.
    """

    result: Result
    why: str = ""
    differences: tuple[Difference, ...] = ()
    unnamed: int = 0
    leaves: frozenset[str] = frozenset()


_MATCH: Final = Verdict(Result.MATCH)


class Comparer:
    """Compares answers of one operation."""

    def __init__(self, rules: ComparisonRules, secret: bytes) -> None:
        """Compiles the rules.

        Args:
            rules: Of the operation.
            secret: Key of the digests.
        """
        self._rules = rules
        self._tree = RuleTree.of(rules)
        self._secret = secret

    def compare(self, left: Answer, right: Answer, pairing: Pairing, *, with_leaves: bool = False) -> Verdict:
        """Compares two answers; the left one is the serving side's."""
        if not self._rules.is_comparable:
            return Verdict(Result.INCOMPARABLE, Why.DECLARED)
        if not with_leaves and is_same(left, right, self._rules.headers):
            # Two failures agree in nothing but failing; else equal bytes need no second look.
            return _MATCH if left.status < _SERVER_ERROR else Verdict(Result.INCOMPARABLE, Why.BOTH_FAILED)
        walk = Walk(self._rules, self._tree, self._secret, is_learning=with_leaves)
        try:
            served = decoded(left.body, left.headers)
        except UndecodableError:
            return Verdict(Result.INCOMPARABLE, Why.UNDECODABLE)
        try:
            bodies = served, decoded(right.body, right.headers)
        except UndecodableError:
            # What the serving side packs well, the other one must too.
            walk.found("body", Kind.BODY, len(left.body), len(right.body))
            return Verdict(Result.DIFFERS, "", tuple(walk.differences))
        values = [
            _value(body, answer.headers, is_mcp=pairing.is_mcp)
            for body, answer in zip(bodies, (left, right), strict=True)
        ]
        failed = self._failed(left, right, values, pairing)
        if failed is not None:
            return failed
        if values[0] is _BROKEN and values[1] is _BROKEN and bodies[0] != bodies[1]:
            return Verdict(Result.INCOMPARABLE, Why.UNREADABLE)
        self._statuses(left, right, walk)
        self._headers(left, right, walk)
        try:
            self._bodies(bodies, values, walk)
        except (RecursionError, ArithmeticError):
            # Deeper than Python walks, or numbers beyond all bounds.
            return Verdict(Result.INCOMPARABLE, Why.UNREADABLE)
        leaves = frozenset(leaf_paths(values[0].content)) if with_leaves and values[0].is_readable else frozenset()
        if not walk.noted.seen:
            return Verdict(Result.MATCH, leaves=leaves)
        return Verdict(Result.DIFFERS, "", tuple(walk.noted), walk.noted.unnamed, leaves)

    # ---------------------------------------------------------------------------------------------------------------

    def _failed(self, left: Answer, right: Answer, values: list[_Value], pairing: Pairing) -> Verdict | None:
        """What one side's failure makes of the pair."""
        codes = [code_of(value.content) for value in values]
        if any(code in self._rules.incomparable_codes for code in codes) and codes[0] != codes[1]:
            known = next(code for code in codes if code in self._rules.incomparable_codes)
            return Verdict(Result.INCOMPARABLE, known)
        failed = [
            answer.status >= _SERVER_ERROR or code in pairing.failure_codes
            for answer, code in zip((left, right), codes, strict=True)
        ]
        if not any(failed):
            return None
        if all(failed):
            return Verdict(Result.INCOMPARABLE, Why.BOTH_FAILED)
        is_old = failed[0] is pairing.left_is_old
        return Verdict(Result.INCOMPARABLE, Why.BASELINE_ERROR if is_old else Why.CANDIDATE_ERROR)

    def _statuses(self, left: Answer, right: Answer, walk: Walk) -> None:
        if left.status == right.status:
            return
        if any({left.status, right.status} <= group for group in self._rules.equal_statuses):
            return
        walk.found("status", Kind.STATUS, left.status, right.status)

    def _headers(self, left: Answer, right: Answer, walk: Walk) -> None:
        for name in self._rules.headers:
            one, other = (_header(answer.headers, name) for answer in (left, right))
            if one != other:
                walk.found(f"header:{name}", Kind.HEADER, one, other)

    def _bodies(self, bodies: tuple[bytes, bytes], values: list[_Value], walk: Walk) -> None:
        left, right = values
        if left.is_readable and right.is_readable:
            walk.compare(left.content, right.content)
        elif bodies[0] != bodies[1] or left.is_readable != right.is_readable:
            walk.found("body", Kind.BODY, len(bodies[0]), len(bodies[1]))


@dataclass(frozen=True, slots=True)
class _Value:
    """What a body says.

    Attributes:
        content: A JSON value.
        is_readable: Whether there is one.
    """

    content: Any
    is_readable: bool = True


_UNREAD: Final = _Value(None, is_readable=False)
"""Says nothing that is walked."""
_BROKEN: Final = _Value(None, is_readable=False)
"""Should say something, and does not."""


def _value(body: bytes, headers: Headers, *, is_mcp: bool) -> _Value:
    """What a body says, its content coding undone."""
    kind, charset = media_type(headers)
    try:
        if kind == _EVENT_STREAM:
            return _Value(_mcp_of_events(body) if is_mcp else _of_events(body))
        if not is_json(kind) or charset not in ("", "utf-8", "utf8", "us-ascii"):
            return _UNREAD
        content = parse(body)
    except (UnreadableError, UndecodableError):
        return _BROKEN
    return _Value(_mcp_message(content) if is_mcp else content)


def is_same(left: Answer, right: Answer, headers: Iterable[str]) -> bool:
    """Whether two answers are equal as they were sent, as far as anything is compared of them."""
    if left.status != right.status or left.body != right.body:
        return False
    if left.headers == right.headers:
        return True
    names = [b"content-encoding", *(name.encode() for name in headers)]
    return all(values_of(left.headers, name) == values_of(right.headers, name) for name in names)


def error_code(answer: Answer, *, is_mcp: bool) -> str | None:
    """The code of the error that an answer says, or None: it says none, or nothing that can be read."""
    try:
        body = decoded(answer.body, answer.headers)
    except UndecodableError:
        return None
    return code_of(_value(body, answer.headers, is_mcp=is_mcp).content)


def code_of(content: object) -> str | None:
    """The code of an error: of a problem document, of an MCP tool's result, or of a JSON-RPC error's data."""
    if not isinstance(content, dict):
        return None
    for place in (content.get("structuredContent") if content.get("isError") is True else None, _data(content)):
        if isinstance(place, dict) and isinstance(place.get(_CODE), str):
            return str(place[_CODE])
    code = content.get(_CODE)
    return code if isinstance(code, str) and ("status" in content or "retryable" in content) else None


def _data(content: dict[str, Any]) -> object:
    error = content.get("error")
    return error.get("data") if isinstance(error, dict) else None


def _header(headers: Headers, name: str) -> str:
    if name == "content-type":
        kind, charset = media_type(headers)
        # RFC 8259 §8.1: JSON is UTF-8, said or not.
        return kind if is_json(kind) and charset in ("", "utf-8") else f"{kind}; {charset}"
    if name == "etag":
        return "present" if values_of(headers, b"etag") else ""
    return ", ".join(values_of(headers, name.encode()))


# --- server-sent events and MCP ------------------------------------------------------------------------------------


def _of_events(body: bytes) -> list[dict[str, Any]]:
    return [{"event": kind, "data": _parsed(data)} for kind, data in events(body)]


def _parsed(text: str) -> object:
    """A text as the JSON that it is, else as it is."""
    if text[:1] not in ("{", "["):
        return text
    try:
        return parse(text)
    except UnreadableError:
        return text


def _mcp_of_events(body: bytes) -> object:
    """The answer among the messages of a stream; notifications before it are no part of it.

    Raises:
        UnreadableError: There is none.
    """
    for _, data in reversed(events(body)):
        message = parse(data) if data else None
        if isinstance(message, dict) and ("result" in message or "error" in message):
            return _mcp_message(message)
    raise UnreadableError("the stream holds no answer")


def _mcp_message(message: object) -> object:
    """What an MCP answer says, without its envelope: ids and `_meta` belong to the exchange."""
    if not isinstance(message, dict):
        return message
    if isinstance(message.get("error"), dict):
        return {"error": {name: value for name, value in message["error"].items() if name != "message"}}
    result = message.get("result")
    if not isinstance(result, dict):
        return message
    said = {name: value for name, value in result.items() if name != "_meta"}
    # Absent means that it is none (MCP, CallToolResult).
    if "content" in said:
        said.setdefault("isError", False)
    if isinstance(said.get("content"), list):
        said["content"] = [_mcp_block(block) for block in said["content"]]
    return said


def _mcp_block(block: object) -> object:
    if not isinstance(block, dict):
        return block
    kept = {name: value for name, value in block.items() if name not in ("_meta", "annotations")}
    if kept.get("type") == "text" and isinstance(kept.get("text"), str):
        kept["text"] = _parsed(kept["text"])
    return kept
