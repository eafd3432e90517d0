"""Compares the answers of two sides to one read: status, chosen headers, then what the bodies say.

equal bytes                               -> match
one side failed, or knows nothing of it   -> incomparable, with why
else                                      -> the differences, none of which shows a value
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.compare.content import UndecodableError, decoded, values_of
from gateway.core.compare.difference import Difference, Kind
from gateway.core.compare.fields import field_of
from gateway.core.compare.rule_tree import RuleTree
from gateway.core.compare.rules import ComparisonRules
from gateway.core.compare.said import BROKEN, Said, code_of, said_in
from gateway.core.compare.shapes import normalised
from gateway.core.compare.tree import Walk, leaf_paths
from gateway.core.model import Headers

_SERVER_ERROR: Final = 500
_REDIRECTION: Final = range(300, 400)
_REFUSED: Final = 400
_LISTENED_BYTES: Final = 64 * 1024
_PACKED_BYTES: Final = 4096
"""Errors are short."""
_SIGN: Final = b'"code"'


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
        said = [
            said_in(body, answer.headers, is_mcp=pairing.is_mcp)
            for body, answer in zip(bodies, (left, right), strict=True)
        ]
        failed = self._failed(left, right, said, pairing)
        if failed is not None:
            return failed
        if said[0] is BROKEN and said[1] is BROKEN and bodies[0] != bodies[1]:
            return Verdict(Result.INCOMPARABLE, Why.UNREADABLE)
        self._statuses(left, right, walk)
        if all(_is_refusal(answer, what) for answer, what in zip((left, right), said, strict=True)):
            # Each side words its errors as it likes.
            self._codes(said, walk)
            return _verdict(walk, frozenset())
        self._headers(left, right, walk, is_mcp=pairing.is_mcp)
        if left.status in _REDIRECTION and right.status in _REDIRECTION:
            return _verdict(walk, frozenset())
        try:
            self._bodies(bodies, said, walk)
        except (RecursionError, ArithmeticError):
            # Deeper than Python walks, or numbers beyond all bounds.
            return Verdict(Result.INCOMPARABLE, Why.UNREADABLE)
        is_learnt = with_leaves and said[0].is_readable
        return _verdict(walk, frozenset(leaf_paths(said[0].content)) if is_learnt else frozenset())

    # ---------------------------------------------------------------------------------------------------------------

    def _failed(self, left: Answer, right: Answer, said: list[Said], pairing: Pairing) -> Verdict | None:
        """What one side's failure makes of the pair."""
        codes = [code_of(what.content) for what in said]
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

    def _codes(self, said: list[Said], walk: Walk) -> None:
        one, other = (code_of(what.content) for what in said)
        if one != other:
            kind = Kind.EXTRA if one is None else Kind.MISSING if other is None else Kind.VALUE
            walk.found("code", kind, one, other)

    def _headers(self, left: Answer, right: Answer, walk: Walk, *, is_mcp: bool) -> None:
        for name in self._rules.headers:
            one, other = (field_of(answer.headers, name, is_mcp=is_mcp) for answer in (left, right))
            if one != other:
                walk.found(f"header:{name}", Kind.HEADER, one, other)

    def _bodies(self, bodies: tuple[bytes, bytes], said: list[Said], walk: Walk) -> None:
        left, right = said
        if left.is_readable and right.is_readable:
            walk.compare(left.content, right.content)
        elif left is not right or not self._is_same_text(*bodies):
            walk.found("body", Kind.BODY, len(bodies[0]), len(bodies[1]))

    def _is_same_text(self, left: bytes, right: bytes) -> bool:
        """Whether two bodies that are not walked agree; a rule for the whole of them may say how texts are read."""
        if left == right:
            return True
        rule = self._tree.at("$")
        if rule is None or not rule.normalise:
            return False
        try:
            one, other = (normalised(body.decode(), rule.normalise) for body in (left, right))
        except UnicodeDecodeError:
            return False
        return one == other


def _is_refusal(answer: Answer, said: Said) -> bool:
    if answer.status >= _REFUSED:
        return True
    content = said.content
    return isinstance(content, dict) and content.get("isError") is True and code_of(content) is not None


def _verdict(walk: Walk, leaves: frozenset[str]) -> Verdict:
    if not walk.noted.seen:
        return Verdict(Result.MATCH, leaves=leaves)
    return Verdict(Result.DIFFERS, "", tuple(walk.noted), walk.noted.unnamed, leaves)


def is_same(left: Answer, right: Answer, headers: Iterable[str]) -> bool:
    """Whether two answers are equal as they were sent, as far as anything is compared of them.

    False also where they may say a failure in words: equal failures are no agreement.
    """
    if left.status != right.status or left.body != right.body or _may_say_failure(left):
        return False
    if left.headers == right.headers:
        return True
    if values_of(left.headers, b"content-encoding") != values_of(right.headers, b"content-encoding"):
        return False
    return all(field_of(left.headers, name) == field_of(right.headers, name) for name in headers)


def _may_say_failure(answer: Answer) -> bool:
    if len(answer.body) > _LISTENED_BYTES:
        return False
    if _SIGN in answer.body:
        return True
    return len(answer.body) <= _PACKED_BYTES and any(name == b"content-encoding" for name, _ in answer.headers)


_ERROR_LIMIT_BYTES: Final = 256 * 1024
"""Errors are short, also unpacked: this is asked of answers on the way of requests."""


def error_code(answer: Answer, *, is_mcp: bool) -> str | None:
    """The code of the error that an answer says, or None: it says none, or nothing that can be read."""
    try:
        body = decoded(answer.body, answer.headers, _ERROR_LIMIT_BYTES)
    except UndecodableError:
        return None
    return code_of(said_in(body, answer.headers, is_mcp=is_mcp).content)
