"""Percent, as people write it, and parts per million, as the split computes with it.

Four decimals of a percent are exactly one part per million, so nothing is ever rounded: a number that cannot be kept is
refused. Pure.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Final

from gateway.core.model import PPM_ALL, Ppm

DECIMALS: Final = 4
_PPM_PER_PERCENT: Final = 10**DECIMALS
_WRITE: Final = "write a number from 0 to 100 with at most 4 decimals"


def parse_percent(value: object) -> Ppm:
    """Reads a share.

    Args:
        value: A number 0-100 with at most 4 decimals; int, float or Decimal. A float counts as the shortest decimal
            that stands for it, so 33.3333 is 333 333 ppm.

    Raises:
        ValueError: Anything else: text, booleans, NaN, infinities, out of range, more decimals. The message says what
            would be right.
    """
    # One exception type for every wrong value: whoever calls shows the message and needs no second branch.
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no number; {_WRITE}")  # noqa: TRY004 - as above
    if isinstance(value, str):
        raise ValueError(f"{_short(value)} is text; write the number without quotes")  # noqa: TRY004 - as above
    if not isinstance(value, int | float | Decimal):
        raise ValueError(f"this is no number; {_WRITE}")  # noqa: TRY004 - as above
    if not isinstance(value, int) and not math.isfinite(value):
        raise ValueError(f"{value} is no share; {_WRITE}")
    if value < 0 or value > 100:
        raise ValueError(f"{_short(value)} is not between 0 and 100; {_WRITE}")
    # repr of a float is the shortest decimal that reads back as the same float.
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    ppm = _scaled(exact)
    if ppm is None:
        nearest = Ppm(int((exact * _PPM_PER_PERCENT).to_integral_value()))
        raise ValueError(f"{_short(value)} has more than 4 decimals; write {percent_of(nearest)}")
    return ppm


def _scaled(value: Decimal) -> Ppm | None:
    """The ppm of 0-100 percent, or None where that is no whole number.

    In integers: a Decimal multiplies in 28 digits, and what it rounds away there would be taken for nothing.
    """
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    written = "".join(map(str, digits))
    # All zeros at once: a client may send a hundred thousand, and one after the other would stop everybody else.
    significant = written.rstrip("0")
    places = exponent + DECIMALS + len(written) - len(significant)
    if not significant:
        return Ppm(0)
    return Ppm(int(significant) * 10**places) if places >= 0 else None


def percent_of(share: Ppm) -> int | float:
    """The share as a number 0-100: an int where it is whole, so 10 shows as `10`. `parse_percent` gives it back."""
    return share // _PPM_PER_PERCENT if share % _PPM_PER_PERCENT == 0 else share / _PPM_PER_PERCENT


def format_percent(share: Ppm) -> str:
    """The share for people: `10 %`, `33.3333 %`."""
    text = f"{Decimal(share) / _PPM_PER_PERCENT:f}"
    return f"{text} %"


def _short(value: object) -> str:
    """A value as messages show it; bounded, since it may be anything a client sent."""
    if isinstance(value, int) and abs(value) > PPM_ALL:
        return "this number"
    text = json.dumps(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:40] + "…"
