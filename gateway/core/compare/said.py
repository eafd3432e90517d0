"""What a body says: a JSON value, events, or an MCP answer without its envelope; and the code of an error in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.core.compare.content import UndecodableError, events, is_json, media_type
from gateway.core.compare.json_value import Json, UnreadableError, parse
from gateway.core.model import Headers

EVENT_STREAM: Final = "text/event-stream"
_CODE: Final = "code"


@dataclass(frozen=True, slots=True)
class Said:
    """What a body says.

    Attributes:
        content: A JSON value.
        is_readable: Whether there is one.
    """

    content: Json
    is_readable: bool = True


UNREAD: Final = Said(None, is_readable=False)
"""Says nothing that is walked."""
BROKEN: Final = Said(None, is_readable=False)
"""Should say something, and does not."""


def said_in(body: bytes, headers: Headers, *, is_mcp: bool) -> Said:
    """What a body says, its content coding undone."""
    kind, charset = media_type(headers)
    try:
        if kind == EVENT_STREAM:
            return Said(_mcp_of_events(body) if is_mcp else _of_events(body))
        if not is_json(kind) or charset not in ("", "utf-8", "utf8", "us-ascii"):
            return UNREAD
        content = parse(body)
    except (UnreadableError, UndecodableError):
        return BROKEN
    return Said(_mcp_message(content) if is_mcp else content)


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
