"""Key sources: what can be written, and what would put a secret into a key."""

from __future__ import annotations

import re

import pytest

from gateway.core.model import KeySource, KeySourceKind
from gateway.settings.key_sources import parse_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("header:x-user-id", KeySource(KeySourceKind.HEADER, "x-user-id")),
        ("header:X-User-Id", KeySource(KeySourceKind.HEADER, "x-user-id")),
        ("cookie:Visitor", KeySource(KeySourceKind.COOKIE, "Visitor")),
        ("path:id", KeySource(KeySourceKind.PATH, "id")),
        ("query:user[id]", KeySource(KeySourceKind.QUERY, "user[id]")),
        ("argument:agent.id", KeySource(KeySourceKind.ARGUMENT, "agent.id")),
        ("client_address", KeySource(KeySourceKind.CLIENT_ADDRESS)),
    ],
)
def test_every_kind_can_be_written(text: str, source: KeySource) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("headr:x", '"headr" is no key source; did you mean header?'),
        ("x-user-id", '"x-user-id" is no key source; write one of header, path,'),
        ("header", "header needs a name; write header:NAME"),
        ("cookie:", "cookie needs a name"),
        ("client_address:x", "client_address takes no name"),
        ("header:x user", '"x user" is no header name'),
        ("header:x:y", '"x:y" is no header name'),
        ("header:", "header needs a name"),
        ("cookie:a=b", '"a=b" is no cookie name'),
        ("path:a-b", '"a-b" is no parameter name'),
        ("query:a&b", '"a&b" is no query parameter name'),
        ("query:a%20", "write it decoded"),
        ("argument:a..b", '"a..b" is no member path'),
        ("argument:.a", "is no member path"),
        ("argument:a b", "is no member path"),
        ("header:Authorization", "authorization holds a secret"),
        ("header:proxy-authorization", "holds a secret"),
        ("header:cookie", "cookie holds a secret"),
        ("header:set-cookie", "holds a secret"),
        ("argument:token", "argument token holds a secret"),
        ("argument:auth.token", "holds a secret"),
        ("header:crossfade-side", "is removed from every request at the edge"),
        ("header:Crossfade_Auth", "is removed from every request at the edge"),
        ("header:x-forwarded-for", "is written by every proxy on the way; write client_address"),
        ("header:forwarded", "write client_address"),
        ("header:x-real-ip", "write client_address"),
        ("header:connection", "belongs to one connection"),
        ("header:content-length", "belongs to one connection"),
        ("header:mcp-session-id", "is given by a side and decides nothing"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_its_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_source(text)
