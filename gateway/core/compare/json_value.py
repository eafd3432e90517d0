"""JSON as it was sent: whole numbers exact, others decimal, no member twice, nothing that JSON has no word for.

`json` of the standard library takes the last of two members and knows NaN: two services that differ there would pass.
"""

from __future__ import annotations

import json
import marshal
from decimal import Decimal
from typing import Any, Final, NoReturn

Json = Any
"""Any JSON value: None, bool, int, Decimal, str, list, dict."""

DEPTH: Final = 100
"""Deeper values are not compared: no honest answer is so deep."""


class UnreadableError(ValueError):
    """A body is not JSON that can be compared."""


def parse(body: bytes | str) -> Any:  # noqa: ANN401 - any JSON value
    """Reads a JSON value.

    Raises:
        UnreadableError: It is none, has a member twice, NaN, or is nested too deeply.
    """
    try:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        value = _DECODER.decode(text)
    except RecursionError as exc:
        raise UnreadableError("nested too deeply") from exc
    except UnicodeDecodeError as exc:
        raise UnreadableError("not UTF-8") from exc
    except ValueError as exc:
        raise UnreadableError(str(exc) if isinstance(exc, UnreadableError) else "not JSON") from exc
    if not _is_surely_shallow(text) and _is_deeper(value, DEPTH):
        raise UnreadableError("nested too deeply")
    return value


def canonical(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The same bytes for equal values, whatever the order of members."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_number).encode("utf-8", "surrogatepass")


def is_identical(left: Json, right: Json) -> bool:
    """Whether two values that are equal to Python are surely the same JSON: to Python `1`, `1.0` and `true` are equal.

    False does not mean that they differ: members may stand in another order, or numbers be decimal.
    """
    if left.__class__ is not right.__class__:
        return False
    if left.__class__ not in _CONTAINERS:
        return True
    try:
        return marshal.dumps(left, _PLAIN_FORMAT) == marshal.dumps(right, _PLAIN_FORMAT)
    except ValueError:
        # It knows no decimals.
        return False


def _number(value: object) -> object:
    if isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        # Not `normalize`: that rounds to 28 digits, and knows exponents that are too large for it.
        plain = "".join(map(str, digits)).rstrip("0") or "0"
        text = f"{'-' * sign}{plain}e{int(exponent) + len(digits) - len(plain) if plain != '0' else 0}"
        # Not the text alone: a service may send that very text.
        return {_NUMBER: text}
    raise TypeError(type(value))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise UnreadableError("a member stands twice")
    return members


def _refused(_: str) -> NoReturn:
    raise UnreadableError("NaN or Infinity")


def _decimal(text: str) -> Decimal:
    if len(text) > _DIGITS:
        raise UnreadableError("a number is too long")
    return Decimal(text)


def _is_surely_shallow(text: str) -> bool:
    """Whether brackets cancel out within the depth, told without looking at the value.

    Brackets in strings may spoil this, or hide depth; what the parser itself takes is bounded anyway.
    """
    if text.count("{") + text.count("[") <= DEPTH:
        return True
    brackets = text.encode("utf-8", "surrogatepass").translate(None, _NO_BRACKETS)
    for _ in range(DEPTH):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def _is_deeper(value: object, limit: int) -> bool:
    """Level by level, without recursion."""
    level: list[Any] = [value]
    while level:
        below: list[Any] = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if below and limit <= 1:
            return True
        limit -= 1
        level = below
    return False


_DIGITS: Final = 1000
_CONTAINERS: Final = (dict, list)
_PLAIN_FORMAT: Final = 2
"""Of `marshal`: the last one without references, which depend on who else holds a text."""
_NUMBER: Final = "\udc00"
"""No member of honest JSON: half a character."""
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
# Whole numbers are read by Python itself, which refuses those of more than 4300 digits.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refused, parse_float=_decimal)
