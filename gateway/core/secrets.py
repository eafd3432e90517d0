"""What in a request is a secret of its client: named by the file, or known by its name.

A side that is not trusted with secrets gets no field that is one, and no request that holds one where it cannot be left
out: in the query, or among the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from gateway.core.classify import UnreadableBodyError, arguments_of, parse_body
from gateway.core.model import Headers, Secrets
from gateway.core.refusal import Refusal

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET: Final = re.compile(
    r"(?:^|_)(?:auth|authorization|bearer|cookie|credentials?|jwt|passwd|passphrase|password|secret|session|sessionid|sig"
    r"|signature|sid)(?:_|$)|token|secret|password|api_?key|access_?key|private_?key"
)
_PLAIN: Final = re.compile(r"(?:^|_)(?:page|next|continuation|sync|progress|max|cursor)_?tokens?$|_tokens$")
"""Tokens that open nothing: places in a list, amounts of text."""
_FORM: Final = b"application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Payload:
    """Where a request may hold a secret besides its fields.

    Attributes:
        query: As sent, without `?`.
        body: Whole, or None.
        content_type: As sent.
        is_mcp: Whether the body is an MCP message.
    """

    query: bytes
    body: bytes | None
    content_type: bytes
    is_mcp: bool


def is_secret_name(name: str) -> bool:
    """Whether something of this name is a secret by all appearances."""
    plain = _CAMEL.sub("_", name).replace("-", "_").lower()
    return _SECRET.search(plain) is not None and _PLAIN.search(plain) is None


def without_secrets(headers: Headers, secrets: Secrets) -> Headers:
    """The fields that an untrusted side may see."""
    return [
        (name, value)
        for name, value in headers
        if name.decode("latin-1") not in secrets.headers and not is_secret_name(name.decode("latin-1"))
    ]


def holds_secret(payload: Payload, secrets: Secrets) -> bool:
    """Whether a secret stands where it cannot be left out. What cannot be read may hold one."""
    query = parse_qsl(payload.query.decode("latin-1"))
    if any(_is_secret(name, value, secrets) for name, value in query):
        return True
    if not payload.body:
        return False
    if payload.content_type.split(b";")[0].strip().lower() == _FORM:
        form = parse_qsl(payload.body.decode("latin-1"))
        return any(_is_secret(name, value, secrets) for name, value in form)
    try:
        message = parse_body(payload.body)
    except (UnreadableBodyError, Refusal):
        return True
    content = arguments_of(message, is_mcp=True) if payload.is_mcp else message
    return any(_is_secret(name, value, secrets) for name, value in _members(content))


def _is_secret(name: str, value: object, secrets: Secrets) -> bool:
    if value is None or value is False or value == "":
        return False
    # Who lists them knows them all.
    return name in secrets.arguments or (not secrets.is_declared and is_secret_name(name))


def _members(content: object) -> Iterator[tuple[str, object]]:
    """Every member of every object, however deep; the depth was bounded when it was parsed."""
    waiting = [content]
    while waiting:
        match waiting.pop():
            case dict() as members:
                yield from members.items()
                waiting.extend(members.values())
            case list() as items:
                waiting.extend(items)
            case _:
                pass
