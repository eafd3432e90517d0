"""Path normalisation: what a request is matched on. The raw path is what is forwarded.

Two programs that read one path differently are how a request slips past a rule. So a path that has to be changed in
order to match is reported as such, the other ways to read it are kept, and the router refuses what they disagree on.
RFC 3986 §6.2.2 is the model; only letters, digits and `-._~` are equal to their percent-encoded forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final
from urllib.parse import quote

_PLAIN: Final = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)+|/")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HOSTILE: Final = frozenset(b"/\\\x00")
_UNENCODED: Final = "/~!$&'()*+,=:@"

Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NormalPath:
    """A path as rules see it.

    Attributes:
        text: Decoded once, dot segments and empty segments folded, parameters and one trailing slash dropped.
        segments: `text` split at `/`, without the leading empty one; a decoded slash does not split.
        changed: Normalising did more than change the case of hex digits or decode what must be encoded.
        hostile: Held an encoded slash, backslash or NUL, a raw backslash or a broken escape.
        pieces: The path unfolded, split at everything that some program takes for a slash, parameters dropped after
            decoding; holds empty pieces, `.` and `..`.
    """

    text: str
    segments: Segments
    changed: bool
    hostile: bool
    pieces: Segments

    @property
    def plain_spelling(self) -> str:
        """`text` as a client would have to write it."""
        return quote(self.text.encode("utf-8", "surrogateescape"), safe=_UNENCODED)

    def other_readings(self) -> tuple[Segments, ...]:
        """The segments that other programs may see where this one sees `segments`.

        Encoded slashes and parameters decoded first; and empty segments either folded before the dot segments, as Go's
        path.Clean does, or after them, as RFC 3986 §5.2.4 does: `/a//../b` is `/b` or `/a/b`.
        """
        readings = (_fold([piece for piece in self.pieces if piece]), _fold(self.pieces))
        return tuple(reading for reading in dict.fromkeys(readings) if reading != self.segments)


class _Branch:
    """One segment of the tree of prefixes."""

    __slots__ = ("below", "ends")

    def __init__(self) -> None:
        self.below: dict[str, _Branch] = {}
        self.ends = False


class PathPrefixes:
    """A set of path prefixes. Asking it costs by the length of a path, not by the number of prefixes."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._root = _Branch()
        for prefix in prefixes:
            branch = self._root
            for segment in prefix.strip("/").split("/") if prefix != "/" else ():
                branch = branch.below.setdefault(segment, _Branch())
            branch.ends = True

    def may_hold(self, path: NormalPath) -> bool:
        """Whether some program may take `path` for one of the prefixes, or for something below it.

        Errs to yes: where a path climbs with `..` or holds a NUL, it is enough that a prefix's segments occur in it in
        their order.
        """
        if self._root.ends:
            return True
        is_winding = any(piece == ".." or "\x00" in piece for piece in path.pieces)
        reached = {self._root: None}
        for piece in path.pieces:
            if piece in ("", "."):
                continue
            # A NUL ends the path for some programs and is nothing for others.
            names = set(accumulate(piece.split("\x00"))) if "\x00" in piece else (piece,)
            following = {branch.below[name]: None for branch in reached for name in names if name in branch.below}
            if any(branch.ends for branch in following):
                return True
            reached = reached | following if is_winding else following
            if not reached:
                return False
        return False


def normalise(raw: bytes) -> NormalPath:
    """Normalises the path of an origin-form target.

    Args:
        raw: Path as received, without query. What does not start with a slash, such as `*`, counts as changed.
    """
    if _PLAIN.fullmatch(raw):
        text = raw.decode("ascii")
        segments = tuple(text.split("/")[1:])
        return NormalPath(text, segments, changed=False, hostile=False, pieces=segments)

    changed = bool(raw) and not raw.startswith(b"/")
    hostile = False
    folded: list[str] = []
    pieces: list[str] = []
    raw_pieces = raw.split(b"/")[1:] if raw.startswith(b"/") else raw.split(b"/")
    for raw_piece in raw_pieces:
        bare, semicolon, _ = raw_piece.partition(b";")
        segment, escape_changed, _ = _decode(bare)
        whole, _, piece_hostile = _decode(raw_piece)
        hostile |= piece_hostile
        # "/" itself is one empty piece; every other empty or dot piece is something folded away.
        is_folded = segment in (".", "..") or (segment == "" and len(raw_pieces) > 1)
        changed |= bool(semicolon) or escape_changed or is_folded
        folded.append(segment)
        pieces += (part.partition(";")[0] for part in whole.replace("\\", "/").split("/"))
    segments = _fold([segment for segment in folded if segment])
    return NormalPath("/" + "/".join(segments), segments, changed, hostile, tuple(pieces))


def is_below(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies under it, by whole segments."""
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")


def _decode(piece: bytes) -> tuple[str, bool, bool]:
    """Decodes one segment: (text, an unreserved character was escaped, something hostile was seen)."""
    hostile = b"\\" in piece or b"\x00" in piece
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

    decoded = _ESCAPE.sub(replace, piece) if b"%" in piece else piece
    return decoded.decode("utf-8", "surrogateescape"), changed, hostile


def _fold(pieces: Iterable[str]) -> Segments:
    """Dot segments applied, then empty ones dropped. The root is one empty segment."""
    kept: list[str] = []
    for piece in pieces:
        if piece == "..":
            if kept:
                kept.pop()
        elif piece != ".":
            kept.append(piece)
    return tuple(piece for piece in kept if piece) or ("",)
