"""Shapes: what can be said of a value without saying it. A relaxed part must keep its shape; evidence shows no more."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d([.,]\d{1,9})?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{8,}|[0-9A-F]{8,}")
_DIGITS: Final = re.compile(r"\d+", re.ASCII)
_TOKEN: Final = re.compile(r"string:(?:digits|hex)(\d+)")
_HASH_LENGTH: Final = 32
_TEXT_LIMIT: Final = 256
"""Longer texts have no shape but that of a text."""


def type_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The JSON type of a value; whole numbers are told from others."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, Decimal):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def shape_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The type, and for texts the form, such as `string:uuid`, `string:time`, `string:hex40`, `string:empty`."""
    if not isinstance(value, str):
        return type_of(value)
    if not value:
        return "string:empty"
    if len(value) > _TEXT_LIMIT:
        return "string"
    if _UUID.fullmatch(value):
        return "string:uuid"
    if _TIME.fullmatch(value):
        return "string:time"
    if _DIGITS.fullmatch(value):
        return f"string:digits{len(value)}"
    if _HEX.fullmatch(value):
        return f"string:hex{len(value)}"
    return "string"


def is_same_shape(left: str, right: str) -> bool:
    """Whether two shapes are one.

    A short token of digits may be followed by one of letters; a long hash by nothing but a hash of its length.
    """
    return left == right or _family(left) == _family(right)


def family_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """What stands for a relaxed value: the same for all of the same shape."""
    return _family(shape_of(value))


def _family(shape: str) -> str:
    if shape == "string":
        return "token"
    found = _TOKEN.fullmatch(shape)
    if found is None:
        return shape
    # No text of so many letters and digits is hexadecimal by chance.
    return f"hash{found[1]}" if int(found[1]) >= _HASH_LENGTH else "token"


def time_of(value: Any) -> float | None:  # noqa: ANN401 - any JSON value
    """Unix seconds of an RFC 3339 text, or None. A time without an offset counts as UTC."""
    if not isinstance(value, str) or len(value) > _TEXT_LIMIT or not _TIME.fullmatch(value):
        return None
    text = value.replace(",", ".").upper()
    # Python 3.11 takes six digits of a second at most.
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
