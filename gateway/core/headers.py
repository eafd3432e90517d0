"""Header rules: what is removed, kept and written on the way to a side and back to the client.

Order matters and is the order of RFC 9110 §7.6.1: first the fields that concern one connection go, then what a client
must not say, then the gateway adds its own. A header list is never changed in place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from gateway.core.model import Headers

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Framing is computed, Expect is answered by the gateway, a method is what the request line says.
_NEVER_FORWARDED: Final = HOP_BY_HOP | {b"content-length", b"expect", b"http2-settings", b"x-http-method-override"}

# RFC 9110 §7.6.1 lets `Connection` name any field; it must not strip what a rule of the gateway or the side relies on.
_NOT_DELETABLE: Final = frozenset({b"host", b"cache-control", b"authorization", b"idempotency-key", b"x-request-id"})

_NEVER_TRAILERS: Final = HOP_BY_HOP | {
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"date",
    b"expires",
    b"host",
    b"location",
    b"retry-after",
    b"set-cookie",
    b"vary",
    b"www-authenticate",
    b"x-request-id",
}

_FORWARDING: Final = frozenset({b"forwarded", b"x-real-ip"})
_FORWARDING_PREFIX: Final = b"x-forwarded-"

_GATEWAY_WRITES: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"x-http-method-override",
        b"x-request-id",
        b"idempotency-key",
        b"authorization",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
    }
)
"""Fields whose underscore spelling a CGI-style side would read as the field itself."""


class _Names:
    """Sorts field names into ordinary ones and those that some rule below is about, and remembers which are which.

    Nearly all names are ordinary, and few occur: to look one up costs a tenth of asking every rule. Bounded, because
    clients choose names.

    Attributes:
        known: Whether names are ordinary; look here first, and `learn` what is absent.
    """

    __slots__ = ("_special", "known")

    _KNOWN_MAX: Final = 1024
    _NAME_BYTES: Final = 64

    def __init__(self, special: Callable[[bytes], bool]) -> None:
        self._special = special
        self.known: dict[bytes, bool] = {}

    def learn(self, name: bytes) -> bool:
        """Whether no rule is about fields of this name."""
        is_ordinary = not self._special(name)
        if len(name) <= self._NAME_BYTES:
            if len(self.known) >= self._KNOWN_MAX:
                self.known.clear()
            self.known[name] = is_ordinary
        return is_ordinary


def _is_special_in_request(name: bytes) -> bool:
    return (
        b"_" in name
        or name.startswith((b"crossfade-", _FORWARDING_PREFIX))
        or name in _FORWARDING
        or name in _NEVER_FORWARDED
        or name == b"via"
    )


def _is_special_in_answer(name: bytes) -> bool:
    return name.startswith(b"crossfade-") or name in HOP_BY_HOP or name in (b"content-length", b"date")


_IN_REQUEST: Final = _Names(_is_special_in_request)
_IN_ANSWER: Final = _Names(_is_special_in_answer)
_NO_NAMES: Final[frozenset[bytes]] = frozenset()

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# W3C Trace Context §3.2: version ff is invalid, ids are not all zero; only version 00 has a fixed length.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]*)?"
)
_VIA_LOOP: Final = 3


@dataclass(slots=True)
class Incoming:
    """A request's fields after everything that may not pass was taken out.

    Attributes:
        headers: What is left, in order.
        force: The raw `Crossfade-Force`, if exactly one came.
        forged: How many fields a client had no business sending were removed.
        forwarded_for: `X-Forwarded-For` values of a trusted peer.
        looping: The request has passed this gateway before, too often.
    """

    headers: Headers
    force: bytes | None = None
    forged: int = 0
    forwarded_for: list[bytes] = field(default_factory=list)
    looping: bool = False


def receive(headers: Headers, *, trusted_peer: bool, guarded: frozenset[bytes], pseudonym: bytes) -> Incoming:
    """Takes out what concerns one connection and what a client may not say.

    Args:
        headers: As received, lower-case names.
        trusted_peer: Whether the peer is one of `trusted_proxies`.
        guarded: Further names whose underscore spelling is removed: the headers that decide keys.
        pseudonym: The gateway's name in `Via`.
    """
    named = _named_by_connection(headers)
    incoming = Incoming([])
    kept = incoming.headers
    forces: list[bytes] = []
    passes = 0
    known = _IN_REQUEST.known
    for item in headers:
        name, value = item
        ordinary = known.get(name)
        if ordinary is None:
            ordinary = _IN_REQUEST.learn(name)
        if ordinary:
            if name not in named:
                kept.append(item)
            continue
        plain = name if b"_" not in name else name.replace(b"_", b"-")
        # Before `Connection` is heard: what it names would go uncounted, or strike out a trusted proxy's word.
        if plain.startswith(b"crossfade-"):
            if name == b"crossfade-force":
                forces.append(value)
            else:
                incoming.forged += 1
        elif plain.startswith(_FORWARDING_PREFIX) or plain in _FORWARDING:
            if not trusted_peer or plain is not name:
                incoming.forged += 1
            elif name == b"x-forwarded-for":
                incoming.forwarded_for.append(value)
            else:
                kept.append(item)
        elif name in _NEVER_FORWARDED or name in named:
            continue
        elif plain is not name and (plain in _GATEWAY_WRITES or plain in guarded):
            incoming.forged += 1
        else:
            if name == b"via":
                passes += _passes_through(value, pseudonym)
            kept.append(item)
    if len(forces) == 1:
        incoming.force = forces[0]
    else:
        incoming.forged += len(forces)
    incoming.looping = passes >= _VIA_LOOP
    return incoming


def _passes_through(via: bytes, pseudonym: bytes) -> int:
    """How often a `Via` value names this gateway; others may have joined several into one (RFC 9110 §7.6.3)."""
    return sum(member.split()[1:2] == [pseudonym] for member in via.split(b","))


class Hop(NamedTuple):
    """What the gateway says of itself and of the client to a side.

    Attributes:
        peer: Address of the connection's other end.
        scheme: `http` or `https`, as the client sees it.
        version: HTTP version the client spoke, `1.1` or `1.0`.
        pseudonym: Name in `Via`.
        trusted_peer: Whether the peer's own forwarding fields were kept.
        host: What the side gets as `Host`, instead of the client's, or None.
        fallback_host: What it gets when the client sent none, as HTTP/1.0 allows.
        auth: The internal token, or None.
    """

    peer: bytes
    scheme: bytes
    version: bytes
    pseudonym: bytes
    trusted_peer: bool
    host: bytes | None
    fallback_host: bytes
    auth: bytes | None


def to_side(incoming: Incoming, hop: Hop, request_id: bytes, extra: Headers, *, entropy: int) -> Headers:
    """The fields that go to a side.

    Args:
        incoming: From `receive`.
        hop: About this connection.
        request_id: From `request_id`.
        extra: More fields to add; they replace the client's of the same name.
        entropy: At least 192 random bits, for a trace that starts here.
    """
    replaced = {name for name, _ in extra} if extra else _NO_NAMES
    out: Headers = []
    host: bytes | None = None
    has_forwarded_host = has_forwarded_proto = False
    traceparents: list[bytes] = []
    for item in incoming.headers:
        name = item[0]
        if name == b"host":
            host = item[1]
            out.append((name, hop.host) if hop.host else item)
        elif name == b"traceparent":
            traceparents.append(item[1])
        elif name != b"x-request-id" and name not in replaced:
            if name == b"x-forwarded-host":
                has_forwarded_host = True
            elif name == b"x-forwarded-proto":
                has_forwarded_proto = True
            out.append(item)
    if len(traceparents) == 1 and is_traceparent(traceparents[0]):
        out.append((b"traceparent", traceparents[0]))
    else:
        # W3C Trace Context §3.3: the state of a trace that is not continued means nothing.
        out = [item for item in out if item[0] != b"tracestate"]
        out.append((b"traceparent", new_traceparent(entropy)))
    out.append((b"via", hop.version + b" " + hop.pseudonym))
    peers = hop.peer
    if incoming.forwarded_for:
        chain = (value.strip(b" \t,") for value in incoming.forwarded_for)
        peers = b", ".join((*filter(None, chain), peers))
    out.append((b"x-forwarded-for", peers))
    if not has_forwarded_proto:
        out.append((b"x-forwarded-proto", hop.scheme))
    if host is None:
        out.append((b"host", hop.host or hop.fallback_host))
    elif host and not has_forwarded_host:
        out.append((b"x-forwarded-host", host))
    out.append((b"x-request-id", request_id))
    if hop.auth is not None:
        out.append((b"crossfade-auth", hop.auth))
    out.extend(extra)
    return out


def to_client(headers: Headers, extra: Headers, *, date: bytes | None) -> Headers:
    """The fields of an answer that go to the client. Framing fields are the edge's to add.

    Args:
        headers: As the side sent them.
        extra: The gateway's own; they replace the side's of the same name.
        date: Current `Date`, for an answer without one (RFC 9110 §6.6.1); None for an interim answer, which needs none.
    """
    named = _named_by_connection(headers)
    replaced = {name for name, _ in extra}
    has_date = False
    out: Headers = []
    known = _IN_ANSWER.known
    for item in headers:
        name = item[0]
        if name in named or name in replaced:
            continue
        ordinary = known.get(name)
        if ordinary is None:
            ordinary = _IN_ANSWER.learn(name)
        if ordinary:
            out.append(item)
        elif name == b"date":
            has_date = True
            out.append(item)
    if not has_date and date is not None:
        out.append((b"date", date))
    out.extend(extra)
    return out


def trailers_to_client(trailers: Headers) -> Headers:
    """The fields behind a body that go to the client.

    What steers a message, and must be known before its content, has no business there (RFC 9110 §6.5.1).

    Args:
        trailers: As the side sent them.
    """
    return [field for field in trailers if _may_trail(field[0])]


def announced_trailers(headers: Headers) -> Headers:
    """The `Trailer` fields of an answer, less the names that will not pass."""
    fields: Headers = []
    for name, value in headers:
        if name == b"trailer":
            names = [token.strip(b" \t") for token in value.split(b",")]
            if passing := [token for token in names if token and _may_trail(token.lower())]:
                fields.append((name, b", ".join(passing)))
    return fields


def _may_trail(name: bytes) -> bool:
    return name not in _NEVER_TRAILERS and not name.startswith(b"crossfade-")


def _named_by_connection(headers: Headers) -> frozenset[bytes] | set[bytes]:
    named: set[bytes] | None = None
    for name, value in headers:
        if name == b"connection" and value not in (b"keep-alive", b"close", b"Keep-Alive"):
            named = named or set()
            named.update(token.strip(b" \t").lower() for token in value.split(b","))
    return _NO_NAMES if named is None else named - _NOT_DELETABLE


def request_id(headers: Headers, *, entropy: int) -> bytes:
    """The client's request id if it sent one valid one, else a new one of 32 hex digits."""
    given: bytes | None = None
    for name, value in headers:
        if name == b"x-request-id":
            given = value if given is None else b""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return b"%032x" % (entropy & ((1 << 128) - 1))


def is_traceparent(value: bytes) -> bool:
    """Whether `value` is a valid W3C `traceparent`."""
    found = _TRACEPARENT.fullmatch(value)
    return found is not None and not (found[1] == b"00" and found[2])


def new_traceparent(entropy: int) -> bytes:
    """A `traceparent` that starts a trace, not sampled."""
    trace = (entropy & ((1 << 128) - 1)) or 1
    span = ((entropy >> 128) & ((1 << 64) - 1)) or 1
    return b"00-%032x-%016x-00" % (trace, span)


def client_address(peer: str, forwarded_for: Iterable[bytes], trusted: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """The client as seen through trusted proxies: the last address in the chain that is not one of them."""
    parts = (part.strip().decode("latin-1") for value in forwarded_for for part in value.split(b","))
    chain = [part for part in parts if part]  # RFC 9110 §5.6.1: empty list elements are ignored
    address = peer
    for hop in reversed(chain):
        if not is_trusted(address, trusted):
            break
        try:
            ip_address(hop)
        except ValueError:
            break
        address = hop
    return address


def is_trusted(address: str, trusted: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Whether `address` lies in one of the trusted networks."""
    if not trusted:
        return False
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    # A socket that listens on both families shows IPv4 peers as ::ffff:192.0.2.1.
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in trusted)
