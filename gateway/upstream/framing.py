"""How messages are delimited: the head of a request is written here, the head of an answer is judged here.

Pure. Framing is computed, never copied: whatever a caller put into Content-Length, Transfer-Encoding or Connection
stays behind. An answer whose end two parties could see in different places is refused (RFC 9112 §6.3, and stricter
where the RFC leaves a choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.core.model import ErrorCode, Headers
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody, UpstreamRequest

# RFC 9110 §7.6.1: fields of one connection. A caller should not pass them; if it does, they end here.
_CONNECTION_FIELDS = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_FRAMING_FIELDS = frozenset((b"content-length", b"transfer-encoding", b"connection"))
_LENGTH_MAX = (1 << 63) - 1


class BodyKind(StrEnum):
    """How the end of an answer's body is found."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


class InvalidAnswerError(Exception):
    """An answer broke HTTP or a limit; `str()` says how, without quoting it."""


@dataclass(slots=True)
class AnswerFraming:
    """What the head of an answer says about its body. Built once per answer, not shared.

    Attributes:
        kind: How the body ends.
        length: Its length in bytes; None when only reading tells.
        keep_alive: Whether the side lets the connection be used again.
    """

    kind: BodyKind
    length: int | None
    keep_alive: bool


def write_request_head(request: UpstreamRequest) -> bytes:
    """The bytes of a request up to and including the empty line.

    Raises:
        UpstreamError: `bad_request`: a line break, NUL or stray space would have changed the shape of the message.
    """
    body = request.body
    lines = [b"%b %b HTTP/1.1" % (request.method, request.target)]
    lines += [b": ".join(field) for field in request.headers if field[0] not in _CONNECTION_FIELDS]
    if request.upgrade is not None:
        lines += (b"connection: upgrade", b"upgrade: " + request.upgrade)
    if body is None:
        pass
    elif not isinstance(body, StreamedBody):
        lines.append(b"content-length: %d" % len(body))
    elif body.length is None:
        lines.append(b"transfer-encoding: chunked")
    else:
        lines.append(b"content-length: %d" % body.length)
    breaks = len(lines) + 1
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    # The edge validated what a client sent; this holds whatever came since. Counting is three memchr passes.
    if (
        head.count(b"\n") != breaks
        or head.count(b"\r") != breaks
        or b"\0" in head
        or lines[0].count(b" ") != 2
        or lines[0].startswith(b" ")
    ):
        raise UpstreamError(
            ErrorCode.BAD_REQUEST, upstream="", phase=Phase.SEND, detail="malformed request head", sent=False
        )
    return head


def judge_answer_head(version: str, status: int, headers: Headers, *, answers_head: bool) -> AnswerFraming:
    """How the body of a final answer is delimited.

    Args:
        version: `1.1`, `1.0`, or whatever the status line said.
        status: Status code of the answer.
        headers: Its fields, names in lower case.
        answers_head: Whether the request's method was HEAD.

    Raises:
        InvalidAnswerError: The answer cannot be delimited with certainty, or is none.
    """
    if version not in ("1.1", "1.0"):
        raise InvalidAnswerError(f"HTTP version {version}")
    if not 200 <= status <= 599:
        raise InvalidAnswerError(f"status {status}")
    length, chunked, keep_alive = _read_framing_fields(headers, is_1_1=version == "1.1")
    # RFC 9112 §6.3 rule 1: these have no body whatever their fields say.
    if answers_head or status in (204, 304):
        return AnswerFraming(BodyKind.NONE, 0, keep_alive)
    if chunked:
        return AnswerFraming(BodyKind.CHUNKED, None, keep_alive)
    if length is None:
        return AnswerFraming(BodyKind.UNTIL_CLOSE, None, keep_alive=False)
    return AnswerFraming(BodyKind.LENGTH if length else BodyKind.NONE, length, keep_alive)


def accepts_switch(headers: Headers, asked: bytes) -> bool:
    """Whether a 101 switches to protocols that were asked for (RFC 9110 §7.8)."""
    wanted = _tokens(asked)
    chosen = [token for name, value in headers if name == b"upgrade" for token in _tokens(value)]
    return bool(chosen) and all(token in wanted for token in chosen)


def _read_framing_fields(headers: Headers, *, is_1_1: bool) -> tuple[int | None, bool, bool]:
    length: int | None = None
    chunked = False
    keep_alive = is_1_1  # HTTP/1.0 keep-alive is not worth its traps (RFC 9112 §C.2.2)
    for name, value in headers:
        if name not in _FRAMING_FIELDS:
            continue
        if name == b"content-length":
            if length is not None:
                raise InvalidAnswerError("more than one Content-Length")
            length = _read_length(value)
        elif name == b"connection":
            keep_alive = keep_alive and b"close" not in _tokens(value)
        else:
            if chunked or value.lower() != b"chunked":
                raise InvalidAnswerError("a Transfer-Encoding other than exactly chunked")
            chunked = True
    if chunked and length is not None:
        raise InvalidAnswerError("Content-Length together with Transfer-Encoding")
    if chunked and not is_1_1:
        raise InvalidAnswerError("Transfer-Encoding in an HTTP/1.0 answer")
    return length, chunked, keep_alive


def _read_length(value: bytes) -> int:
    # bytes.isdigit is ASCII only; int() alone would take "+5", "5_0" and spaces.
    if not value.isdigit() or len(value) > 19 or (length := int(value)) > _LENGTH_MAX:
        raise InvalidAnswerError("an unreadable Content-Length")
    return length


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t") for token in value.lower().split(b",")]
