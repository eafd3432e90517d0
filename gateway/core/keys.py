"""How a request's key is read: sources, recipes, encoding.

Never guesses: a part that is absent, given twice with different values, of another type than string or integer, or not
1-256 bytes long is missing, and with it the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.core.model import Headers, KeyRecipe, KeySource, KeySourceKind

PART_LIMIT_BYTES: Final = 256

JsonObject = Mapping[str, object]


@dataclass(slots=True)
class KeyInputs:
    """What keys are read from.

    Attributes:
        headers: End-to-end request fields, lower-case names.
        path_params: Decoded values of the route's `{name}` segments.
        query: Raw query string without `?`.
        client_address: Address of the client, as text.
        arguments: Members of the JSON body, or the arguments of the MCP call; None while the body is unread or when it
            is no JSON object.
    """

    headers: Headers
    path_params: Mapping[str, str]
    query: bytes
    client_address: str
    arguments: JsonObject | None = None


def body_may_decide(recipes: Iterable[KeyRecipe]) -> bool:
    """Whether some recipe reads an argument."""
    return any(source.kind is KeySourceKind.ARGUMENT for recipe in recipes for source in recipe)


def body_needed(recipes: Iterable[KeyRecipe], inputs: KeyInputs) -> bool:
    """Whether the body must be read before the key is known: a recipe with arguments comes before one that yields."""
    for recipe in recipes:
        if any(source.kind is KeySourceKind.ARGUMENT for source in recipe):
            rest = tuple(source for source in recipe if source.kind is not KeySourceKind.ARGUMENT)
            if _read_recipe(rest, inputs) is not None:
                return True
        elif _read_recipe(recipe, inputs) is not None:
            return False
    return False


def read_key(recipes: Iterable[KeyRecipe], inputs: KeyInputs) -> str | None:
    """The key by the first recipe that yields every part, or None."""
    for recipe in recipes:
        parts = _read_recipe(recipe, inputs)
        if parts:
            return "/".join(parts)
    return None


def header_names_of(recipes: Iterable[KeyRecipe]) -> frozenset[bytes]:
    """The request headers that decide keys, lower-case."""
    return frozenset(
        source.name.encode() for recipe in recipes for source in recipe if source.kind is KeySourceKind.HEADER
    )


def encode_part(text: str) -> str | None:
    """One part as it stands in a key: trimmed, `%` and `/` percent-encoded; None when it cannot be one."""
    part = text.strip()
    try:
        size = len(part.encode())
    except UnicodeEncodeError:  # a lone surrogate from a JSON escape
        return None
    if not 1 <= size <= PART_LIMIT_BYTES:
        return None
    if "%" in part or "/" in part:
        part = part.replace("%", "%25").replace("/", "%2F")
    return part


def _read_recipe(recipe: KeyRecipe, inputs: KeyInputs) -> list[str] | None:
    parts: list[str] = []
    for source in recipe:
        text = _read_source(source, inputs)
        part = encode_part(text) if text is not None else None
        if part is None:
            return None
        parts.append(part)
    return parts


def _read_source(source: KeySource, inputs: KeyInputs) -> str | None:
    match source.kind:
        case KeySourceKind.HEADER:
            return _header(inputs.headers, source.name.encode())
        case KeySourceKind.PATH:
            return inputs.path_params.get(source.name)
        case KeySourceKind.QUERY:
            return _only(_query_values(inputs.query, source.name))
        case KeySourceKind.COOKIE:
            return _only(_cookie_values(inputs.headers, source.name.encode()))
        case KeySourceKind.ARGUMENT:
            return _argument(inputs.arguments, source.name)
        case KeySourceKind.CLIENT_ADDRESS:
            return _address_key(inputs.client_address)


def _header(headers: Headers, name: bytes) -> str | None:
    found: bytes | None = None
    for header, value in headers:
        if header == name:
            value = value.strip(b" \t")
            if found is not None and found != value:
                return None
            found = value
    return _text(found) if found is not None else None


def _only(values: Iterable[bytes]) -> str | None:
    """The value if there is one, or several that agree; sides differ on which of two they read."""
    distinct = {value.strip(b" \t") for value in values}
    return _text(distinct.pop()) if len(distinct) == 1 else None


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _query_values(query: bytes, name: str) -> list[bytes]:
    wanted = name.encode()
    found = []
    for pair in query.split(b"&"):
        raw_name, _, raw_value = pair.partition(b"=")
        if unquote_to_bytes(raw_name.replace(b"+", b" ")) == wanted:
            found.append(unquote_to_bytes(raw_value.replace(b"+", b" ")))
    return found


def _cookie_values(headers: Headers, name: bytes) -> list[bytes]:
    found = []
    for header, value in headers:
        if header == b"cookie":
            for pair in value.split(b";"):
                cookie, equals, content = pair.strip(b" \t").partition(b"=")
                if equals and cookie == name:
                    found.append(content.strip(b" \t").removeprefix(b'"').removesuffix(b'"'))
    return found


def _address_key(address: str) -> str | None:
    """An IPv4 address whole, an IPv6 address by its /64: hosts change the lower half at will (RFC 8981)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> 64 << 64))


def _argument(arguments: JsonObject | None, path: str) -> str | None:
    value: object = arguments
    for member in path.split("."):
        if not isinstance(value, Mapping) or member not in value:
            return None
        value = value[member]
    # bool is an int in Python, and not a key.
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        # A decimal digit is more than 3 bits, so what is longer cannot be a part; and str() of it could take seconds.
        return str(value) if value.bit_length() <= 4 * PART_LIMIT_BYTES else None
    return value if isinstance(value, str) else None
