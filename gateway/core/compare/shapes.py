"""Shapes: what can be said of a value without saying it. A relaxed part must keep its shape; evidence shows no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d([.,]\d{1,9})?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
# Of seven, which git abbreviates to, one is a digit: else it may be a word.
_HEX: Final = re.compile(r"[0-9a-f]{8,}|[0-9A-F]{8,}|(?=[a-f]*\d)[0-9a-f]{7}", re.ASCII)
_UTC_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?Z", re.ASCII)
_UUID_LENGTH: Final = 36
_DIGITS: Final = re.compile(r"\d+", re.ASCII)
_ANY_HEX: Final = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_OPAQUE: Final = re.compile(r"(?=.*\d)[A-Za-z0-9_.+/=-]{6,}", re.ASCII)
_SPACE: Final = re.compile(r"\s")
_ID: Final = re.compile(r"(?=.*\d)[A-Za-z0-9]+", re.ASCII)
_TOKEN: Final = re.compile(r"string:(?:digits|hex)(\d+)")
_HASH_LENGTH: Final = 32
WINDOW_S: Final = 86_400.0
"""How far apart relaxed times may be: two answers to one read are seconds apart, what they tell of is made by jobs that
may run daily."""
_LENGTH_RATIO: Final = 2
_LENGTH_SLACK: Final = 8
_TIMES: Final = 1000
_ONE: Final = Decimal(1)
_NUMBERS: Final = (int, Decimal)
_TEXT_LIMIT: Final = 256
"""Longer texts have no shape but that of a text."""
_NOT_IN_WORD: Final = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"

FORMS: Final = ("uuid", "time", "hex", "number")
"""What a part may be declared to be."""
TOKENS: Final = {
    "uuid": re.compile(_UUID.pattern.join(_NOT_IN_WORD)),
    "time": re.compile(_TIME.pattern.join(_NOT_IN_WORD), re.ASCII),
    # Abbreviated ones hold a letter and a digit: neither words nor numbers are any.
    "sha": re.compile(
        r"(?:[0-9a-f]{64}|[0-9a-f]{40}|(?=[0-9a-f]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7,39})".join(_NOT_IN_WORD)
    ),
}
"""What may be declared to be replaced inside a text."""
_NAMED: Final[Mapping[str, Callable[[re.Match[str]], str]]] = {
    "uuid": lambda _: "{uuid}",
    "time": lambda _: "{time}",
    "sha": lambda found: f"{{sha{len(found[0])}}}",
}


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
    if len(value) == _UUID_LENGTH and _UUID.fullmatch(value):
        return "string:uuid"
    if _TIME.fullmatch(value):
        return "string:time"
    if _DIGITS.fullmatch(value):
        return f"string:digits{len(value)}"
    if _HEX.fullmatch(value):
        return f"string:hex{len(value)}"
    return "string"


def is_alike(left: Any, right: Any, window_s: float | None = None, *, loose: bool = False) -> bool:  # noqa: ANN401
    """Whether a relaxed part may hold the one on one side, and the other on the other.

    The type is the same, and of texts the form: a UUID; a time, at most a day apart; digits or a hash of equal length;
    else a text of similar length. Numbers have one sign, and neither is more than a thousand times the other.

    Args:
        left: A value that is neither object nor array.
        right: Likewise.
        window_s: How far times may be apart; None: a day.
        loose: Whole numbers and others are one type.
    """
    if isinstance(left, str) and isinstance(right, str):
        return _are_texts_alike(left, right, WINDOW_S if window_s is None else window_s)
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return type(left) is type(right)
    if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
        return (loose or type(left) is type(right)) and _are_numbers_alike(left, right)
    return False


def is_same_shape(left: str, right: str) -> bool:
    """Whether values of these two shapes may be alike, as far as shapes tell."""
    if left == right:
        return left not in ("array", "object")
    one, other = _TOKEN.fullmatch(left), _TOKEN.fullmatch(right)
    return one is not None and other is not None and one[1] == other[1]


def has_form(value: Any, form: str) -> bool:  # noqa: ANN401 - any JSON value
    """Whether a value has one of `FORMS`."""
    if form == "number":
        return isinstance(value, int | Decimal) and not isinstance(value, bool)
    if not isinstance(value, str):
        return False
    if form == "time":
        return time_of(value) is not None
    return (_UUID if form == "uuid" else _ANY_HEX).fullmatch(value) is not None


def have_form(left: Any, right: Any, form: str) -> bool:  # noqa: ANN401 - any JSON value
    """Whether two values have a form; of `hex` the length must be equal too."""
    return has_form(left, form) and has_form(right, form) and (form != "hex" or len(left) == len(right))


def normalised(text: str, tokens: Iterable[str]) -> str:
    """A text with every UUID, time or SHA in it replaced by its name, as far as these are asked for."""
    for token in TOKENS:
        if token in tokens:
            text = TOKENS[token].sub(_NAMED[token], text)
    return text


def _are_texts_alike(left: str, right: str, window_s: float) -> bool:
    if not left or not right:
        return left == right
    if window_s >= WINDOW_S and left[:10] == right[:10] and _UTC_TIME.fullmatch(left) and _UTC_TIME.fullmatch(right):
        # Of one day, and by far the most frequent.
        return True
    one, other = shape_of(left), shape_of(right)
    if "string:time" in (one, other):
        times = time_of(left), time_of(right)
        return times[0] is not None and times[1] is not None and abs(times[0] - times[1]) <= window_s
    if "string:uuid" in (one, other):
        return one == other
    if one != "string" or other != "string":
        return len(left) == len(right) and _are_tokens(left, right)
    for text, beside in ((left, right), (right, left)):
        # An id has become a sentence.
        if _OPAQUE.fullmatch(text) and _SPACE.search(beside):
            return False
    shorter, longer = sorted((len(left), len(right)))
    return longer <= _LENGTH_RATIO * shorter + _LENGTH_SLACK


def _are_tokens(left: str, right: str) -> bool:
    """Whether two texts of equal length, one of digits or hexadecimal, may be the same kind of id."""
    if _ANY_HEX.fullmatch(left) and _ANY_HEX.fullmatch(right):
        return True
    # Of a short id in letters and digits all may be hexadecimal by chance; 32 are not, and a word is no id.
    return len(left) < _HASH_LENGTH and all(_ID.fullmatch(text) for text in (left, right))


def _are_numbers_alike(left: int | Decimal, right: int | Decimal) -> bool:
    if left and right and (left < 0) is not (right < 0):
        return False
    one, other = Decimal(left).copy_abs(), Decimal(right).copy_abs()
    return max(one, other) <= _TIMES * max(min(one, other), _ONE)


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
