"""Key sources as the file writes them: `header:x-agent-id`, `argument:agent.id`, `client_address`.

A key is hashed, logged and shown to operators, so a source that holds a secret is refused here.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.model import KeySource, KeySourceKind
from gateway.settings.problems import did_you_mean

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 §5.6.2
_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_SECRET_ARGUMENTS: Final = frozenset({"token"})
_REWRITTEN_HEADERS: Final = frozenset(
    {"forwarded", "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
)
# RFC 9110 §7.6.1 and the framing fields: they say something about one connection and are gone before a key is read.
_HOP_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
)


def parse_source(text: str) -> KeySource:
    """Reads one part of a key.

    Raises:
        ValueError: No such source, a name that cannot exist, or one that holds a secret.
    """
    word, colon, name = text.partition(":")
    try:
        kind = KeySourceKind(word)
    except ValueError:
        raise ValueError(f'"{word}" is no key source; {did_you_mean(word, [str(k) for k in KeySourceKind])}') from None
    if kind is KeySourceKind.CLIENT_ADDRESS:
        if colon:
            raise ValueError("client_address takes no name; write client_address")
        return KeySource(kind)
    if not name:
        raise ValueError(f"{kind} needs a name; write {kind}:NAME")
    match kind:
        case KeySourceKind.HEADER:
            return KeySource(kind, _header(name))
        case KeySourceKind.COOKIE:
            _require(_TOKEN, name, "cookie name")
        case KeySourceKind.PATH:
            _require(_PARAMETER, name, "parameter name (letters, digits, _)")
        case KeySourceKind.ARGUMENT:
            _check_argument(name)
        case KeySourceKind.QUERY:
            if not name.isprintable() or set(name) & set(" &=#+%"):
                raise ValueError(f'"{name}" is no query parameter name; write it decoded, without & = # + % and spaces')
    return KeySource(kind, name)


def _header(name: str) -> str:
    _require(_TOKEN, name, "header name")
    lower = name.lower()
    if lower in _SECRET_HEADERS:
        raise ValueError(f"{lower} holds a secret, and keys are logged and shown; take a header that names the client")
    if lower.replace("_", "-").startswith("crossfade-"):
        raise ValueError(f"{lower} is removed from every request at the edge; take another header")
    if lower in _REWRITTEN_HEADERS:
        raise ValueError(f"{lower} is written by every proxy on the way; write client_address")
    if lower in _HOP_HEADERS:
        raise ValueError(f"{lower} belongs to one connection, not to the client; take another header")
    if lower == "mcp-session-id":
        raise ValueError("mcp-session-id is given by a side and decides nothing; take an argument or another header")
    return lower


def _check_argument(name: str) -> None:
    members = name.split(".")
    if not all(members) or not name.isprintable() or " " in name:
        raise ValueError(f'"{name}" is no member path; write argument:member or argument:member.inner')
    if members[-1] in _SECRET_ARGUMENTS:
        raise ValueError(f"argument {name} holds a secret, and keys are logged and shown; take another argument")


def _require(pattern: re.Pattern[str], name: str, what: str) -> None:
    if not pattern.fullmatch(name):
        raise ValueError(f'"{name}" is no {what}')
