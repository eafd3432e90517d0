"""Header fields of answers, as far as they are compared: what two services may say differently reads the same."""

from __future__ import annotations

import re
from typing import Final

from gateway.core.compare.content import is_json, media_types, values_of
from gateway.core.compare.said import EVENT_STREAM
from gateway.core.model import Headers

_HOST: Final = re.compile(r"(?:https?:)?//[^/?#]*", re.IGNORECASE)
_UTF_8: Final = ("", "utf-8", "utf8")


def field_of(headers: Headers, name: str, *, is_mcp: bool = False) -> str:
    """What a field says; empty: it is not there.

    Args:
        headers: Of an answer.
        name: Lower-case.
        is_mcp: Whether the answer carries an MCP message: then one event and plain JSON are the same.
    """
    match name:
        case "content-type":
            return ", ".join(_media_type(kind, charset, is_mcp=is_mcp) for kind, charset in media_types(headers))
        case "etag":
            # Each side makes its own.
            return "present" if values_of(headers, b"etag") else ""
        case "location":
            return ", ".join(_place(value) for value in values_of(headers, b"location"))
        case _:
            return ", ".join(values_of(headers, name.encode()))


def _media_type(kind: str, charset: str, *, is_mcp: bool) -> str:
    if is_mcp and (is_json(kind) or kind == EVENT_STREAM):
        return "mcp"
    # RFC 8259 §8.1: JSON is UTF-8, said or not.
    return kind if is_json(kind) and charset in _UTF_8 else f"{kind}; {charset}"


def _place(value: str) -> str:
    """A place without the host: each side names its own."""
    path = _HOST.sub("", value, count=1) if _HOST.match(value) else value
    return path if path[:1] not in ("", "?", "#") or path == value else f"/{path}"
