"""Path normalisation: what a request is matched on. The raw path is what is forwarded.

Two programs that read one path differently are how a request slips past a rule, so a path that has to be changed in
order to match is reported as such, and the router refuses it. RFC 3986 §6.2.2 is the model; only letters, digits and
`-._~` are equal to their percent-encoded forms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PLAIN: Final = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)+|/")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HOSTILE: Final = frozenset(b"/\\\x00")


@dataclass(frozen=True, slots=True)
class NormalPath:
    """A path as rules see it.

    Attributes:
        text: Decoded once, dot segments and empty segments folded, parameters and one trailing slash dropped.
        segments: `text` split at `/`, without the leading empty one; a decoded slash does not split.
        changed: Normalising did more than change the case of hex digits or decode what must be encoded.
        hostile: Held an encoded slash, backslash or NUL, a raw backslash or a broken escape.
        strictest: As `text`, with backslashes and encoded slashes read as slashes: the reading that reaches furthest.
    """

    text: str
    segments: tuple[str, ...]
    changed: bool
    hostile: bool
    strictest: str


def normalise(raw: bytes) -> NormalPath:
    """Normalises the path of an origin-form target.

    Args:
        raw: Path as received, without query.
    """
    if _PLAIN.fullmatch(raw):
        text = raw.decode("ascii")
        return NormalPath(text, tuple(text.split("/")[1:]), changed=False, hostile=False, strictest=text)

    changed = hostile = False
    segments: list[str] = []
    strict: list[str] = []
    pieces = raw.split(b"/")[1:] if raw.startswith(b"/") else raw.split(b"/")
    last = len(pieces) - 1
    for at, piece in enumerate(pieces):
        bare, semicolon, _ = piece.partition(b";")
        decoded, escape_changed, escape_hostile = _decode(bare)
        changed |= bool(semicolon) or escape_changed
        hostile |= escape_hostile
        if decoded in (b"", b".", b".."):
            # "/" itself has one empty piece; every other empty or dot piece is something folded away.
            changed |= not (at == last == 0 and decoded == b"")
            if decoded == b".." and segments:
                segments.pop()
        else:
            segments.append(decoded.decode("utf-8", "surrogateescape"))
        _fold(strict, decoded)
    return NormalPath(
        "/" + "/".join(segments), tuple(segments) or ("",), changed, hostile, strictest="/" + "/".join(strict)
    )


def is_below(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies under it, by whole segments."""
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")


def _decode(piece: bytes) -> tuple[bytes, bool, bool]:
    """Decodes one segment: (bytes, an unreserved character was escaped, something hostile was seen)."""
    hostile = b"\\" in piece or b"\x00" in piece
    if b"%" not in piece:
        return piece, False, hostile
    changed = False

    def replace(found: re.Match[bytes]) -> bytes:
        nonlocal changed, hostile
        if found[1] is None:
            hostile = True
            return found[0]
        byte = int(found[1], 16)
        changed |= byte in _UNRESERVED
        hostile |= byte in _HOSTILE
        return bytes((byte,))

    return _ESCAPE.sub(replace, piece), changed, hostile


def _fold(strict: list[str], decoded: bytes) -> None:
    for part in decoded.replace(b"\\", b"/").replace(b"\x00", b"").split(b"/"):
        name = part.decode("utf-8", "surrogateescape").partition(";")[0]
        if name == "..":
            if strict:
                strict.pop()
        elif name not in ("", "."):
            strict.append(name)
