"""What an answer's body holds: content codings undone within bounds, media types, server-sent events."""

from __future__ import annotations

import re
import zlib
from typing import Final

import brotli

from gateway.core.model import Headers

DECODED_LIMIT_BYTES: Final = 16 << 20
"""A body that grows beyond this when it is unpacked is not compared."""
_LAYERS: Final = 3
_STEP_BYTES: Final = 1 << 20
_CHARSET: Final = re.compile(r'charset\s*=\s*"?([A-Za-z0-9._-]+)', re.IGNORECASE)
_PARAMETER: Final = re.compile(r"\s*;\s*")


class UndecodableError(ValueError):
    """A body cannot be unpacked, or not within bounds."""


def values_of(headers: Headers, name: bytes) -> list[str]:
    """The values of a field, in order."""
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def decoded(body: bytes, headers: Headers, limit: int = DECODED_LIMIT_BYTES) -> bytes:
    """The body without its content codings.

    Raises:
        UndecodableError: An unknown coding, damaged, or larger than the limit.
    """
    codings = [part.strip().lower() for value in values_of(headers, b"content-encoding") for part in value.split(",")]
    codings = [coding for coding in codings if coding and coding != "identity"]
    if len(codings) > _LAYERS:
        raise UndecodableError("too many content codings")
    for coding in reversed(codings):
        body = _undo(body, coding, limit)
    return body


def media_types(headers: Headers) -> list[tuple[str, str]]:
    """Media type and charset of every `Content-Type`, in lower case; empty where not given."""
    found = []
    for value in values_of(headers, b"content-type"):
        charset = _CHARSET.search(value)
        found.append((_PARAMETER.split(value, maxsplit=1)[0].lower(), charset[1].lower() if charset else ""))
    return found


def media_type(headers: Headers) -> tuple[str, str]:
    """Media type and charset that an answer is read by: the first."""
    return next(iter(media_types(headers)), ("", ""))


def is_json(kind: str) -> bool:
    """Whether a media type is JSON (RFC 6839: also anything `+json`)."""
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def events(body: bytes) -> list[tuple[str, str]]:
    """The events of a stream (HTML Living Standard, 9.2.6): type and data; ids, comments and retry times left out.

    Raises:
        UndecodableError: The stream is not UTF-8, or was cut in the middle of an event.
    """
    try:
        text = body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        raise UndecodableError("not UTF-8") from exc
    found: list[tuple[str, str]] = []
    kind = ""
    data: list[str] = []
    *lines, rest = re.split(r"\r\n|\r|\n", text)
    for line in lines:
        if not line:
            if data:
                found.append((kind or "message", "\n".join(data)))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
    if data or rest:
        raise UndecodableError("cut in the middle of an event")
    return found


def _undo(body: bytes, coding: str, limit: int) -> bytes:
    try:
        if coding in ("gzip", "x-gzip"):
            return _inflated(body, zlib.MAX_WBITS | 16, limit)
        if coding == "deflate":
            # RFC 9110 §8.4.1.2: the zlib format; some send the bare one.
            wrapped = body[:1] and (body[0] & 0x0F) == zlib.DEFLATED
            return _inflated(body, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS, limit)
        if coding == "br":
            return _unbrotlied(body, limit)
    except (zlib.error, brotli.error) as exc:
        raise UndecodableError(f"damaged {coding}") from exc
    raise UndecodableError("unknown content coding")


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    out = bytearray()
    while body:
        inflater = zlib.decompressobj(window)
        out += inflater.decompress(body, limit + 1 - len(out))
        if len(out) > limit:
            raise UndecodableError("too large when unpacked")
        if not inflater.eof:
            raise UndecodableError("cut short")
        # RFC 1952 §2.2: a gzip body may have several members.
        body = inflater.unused_data
    return bytes(out)


def _unbrotlied(body: bytes, limit: int) -> bytes:
    inflater = brotli.Decompressor()
    out = bytearray(inflater.process(body, output_buffer_limit=_STEP_BYTES))
    while not inflater.is_finished():
        if len(out) > limit:
            raise UndecodableError("too large when unpacked")
        if inflater.can_accept_more_data():
            raise UndecodableError("cut short")
        out += inflater.process(b"", output_buffer_limit=_STEP_BYTES)
    return bytes(out)
