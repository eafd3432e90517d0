from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import PPM_ALL, Ppm
from gateway.core.percent import format_percent, parse_percent, percent_of

SHARES = st.integers(0, PPM_ALL).map(Ppm)


@pytest.mark.parametrize(
    ("value", "share"),
    [
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (1, 10_000),
        (0.0001, 1),
        (33.3333, 333_333),
        (99.9999, 999_999),
        (100, 1_000_000),
        (100.0, 1_000_000),
        (Decimal("12.50"), 125_000),
        (Decimal("1." + 40 * "0"), 10_000),
        (Decimal("1e2"), 1_000_000),
        (Decimal("0e-999999"), 0),
    ],
)
def test_a_number_is_read_exactly(value: object, share: int) -> None:
    assert parse_percent(value) == share


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (True, "true is no number"),
        (False, "false is no number"),
        ("10", '"10" is text; write the number without quotes'),
        ("abc" * 100, "is text"),
        (None, "no number"),
        ([10], "no number"),
        (-1, "-1 is not between 0 and 100"),
        (-0.0001, "not between 0 and 100"),
        (101, "101 is not between 0 and 100"),
        (100.0001, "not between 0 and 100"),
        (float("nan"), "nan is no share"),
        (float("inf"), "inf is no share"),
        (float("-inf"), "-inf is no share"),
        (Decimal("NaN"), "NaN is no share"),
        (33.33333, "33.33333 has more than 4 decimals; write 33.3333"),
        (0.00001, "more than 4 decimals; write 0"),
        (99.99999, "more than 4 decimals; write 100"),
        # Longer than the 28 digits in which Decimal multiplies.
        (Decimal("99." + 40 * "9"), "more than 4 decimals"),
        (Decimal("1." + 40 * "0" + "1"), "more than 4 decimals"),
        (Decimal("1e-999999"), "more than 4 decimals"),
    ],
)
def test_anything_else_is_refused_and_says_what_would_be_right(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=r"; write ") as caught:
        parse_percent(value)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 150


def test_a_number_of_many_zeros_holds_nobody_up() -> None:
    # One zero after the other would take half a minute.
    assert parse_percent(Decimal("1." + 100_000 * "0")) == 10_000


def test_a_number_too_long_to_print_is_refused_like_any_other() -> None:
    with pytest.raises(ValueError, match="this number is not between 0 and 100"):
        parse_percent(10**5000)


@given(SHARES)
def test_a_share_survives_the_way_to_percent_and_back(share: Ppm) -> None:
    assert parse_percent(percent_of(share)) == share


@given(SHARES)
def test_a_share_reads_the_same_as_number_and_as_text(share: Ppm) -> None:
    assert Decimal(format_percent(share).removesuffix(" %")) == Decimal(str(percent_of(share)))


@given(st.decimals(0, 100, places=4))
def test_every_number_of_four_decimals_is_kept(number: Decimal) -> None:
    share = parse_percent(float(number))
    assert Decimal(str(percent_of(share))) == number


@given(st.decimals(0, 100, places=5).filter(lambda number: number * 10_000 % 1 != 0))
def test_no_number_of_five_decimals_is_rounded_silently(number: Decimal) -> None:
    with pytest.raises(ValueError, match="more than 4 decimals"):
        parse_percent(float(number))


def test_whole_percentages_are_whole_numbers() -> None:
    assert repr(percent_of(Ppm(100_000))) == "10"
    assert repr(percent_of(Ppm(105_000))) == "10.5"
    assert format_percent(Ppm(100_000)) == "10 %"
    assert format_percent(Ppm(1)) == "0.0001 %"
