"""What a relaxed part may hold on one side and on the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.compare.json_value import parse
from gateway.core.compare.shapes import has_form, have_form, is_alike, is_same_shape, normalised, shape_of

UUIDS = '"6a1f1e0c-0000-4000-8000-000000000001"', '"7B1f1e0c-0000-4000-8000-0000000000ff"'


@pytest.mark.parametrize(
    ("left", "right"),
    [
        UUIDS,
        ('"2026-01-01T00:00:00Z"', '"2026-01-01T23:59:59.9+00:00"'),
        (f'"{"0" * 40}"', f'"{"f" * 40}"'),
        ('"12345678"', '"abcdef01"'),
        ('"4711"', '"4712"'),
        ('"a1b2c3d4"', '"a1b2c3dz"'),
        ('"k3jx92hq"', '"12345678"'),
        ('"took 5 ms"', '"took 12 ms, slow"'),
        ("5", "4999"),
        ("0", "7"),
        ("-1", "-900"),
        ("0.001", "0.9"),
        ("19.99", "20"),
        ("true", "false"),
    ],
)
def test_alike(left: str, right: str) -> None:
    assert is_alike(parse(left), parse(right), loose=True)
    assert is_alike(parse(right), parse(left), loose=True)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ('"abcdef1"', '"error: not found"'),
        ('"deadbeef"', '"no value"'),
        ('"k3jx92hq"', '"error: not found"'),
        ('"deadbeef"', '"notfound"'),
        (f'"{"a" * 40}"', f'"{"a" * 64}"'),
        ('"abcdef01"', '"abcdef0102"'),
        ('"99"', '"100"'),
        (f'"{"a" * 40}"', f'"{"1z" * 20}"'),
        ('"x"', f'"{"y" * 5000}"'),
        ('"ok"', '"error: not found"'),
        ('"x"', '""'),
        ('"2026-01-01T00:00:00Z"', '"1970-01-01T00:00:00Z"'),
        ('"2026-01-01T00:00:00Z"', '"2026-01-02T00:00:01Z"'),
        ('"2026-01-01T00:00:00Z"', '"2026-01-01 at midnight"'),
        (UUIDS[0], '"none"'),
        (UUIDS[0], f'"{"a" * 36}"'),
        ("5", "-1000000000000000000"),
        ("5", "5001"),
        ("1", "-1"),
        ("1", "true"),
        ("1", '"1"'),
        ("null", "0"),
        ("[]", "[]"),
    ],
)
def test_not_alike(left: str, right: str) -> None:
    assert not is_alike(parse(left), parse(right), loose=True)
    assert not is_alike(parse(right), parse(left), loose=True)


def test_a_whole_number_and_a_decimal_one_are_two_types_unless_told_otherwise() -> None:
    assert not is_alike(parse("1"), parse("1.5"))
    assert is_alike(parse("1"), parse("1.5"), loose=True)


def test_a_window_may_be_named() -> None:
    assert is_alike("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z", 90 * 86_400)
    assert not is_alike("2026-01-01T00:00:00Z", "2026-01-01T00:00:06Z", 5)


Scalars = st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False)


@given(Scalars, Scalars)
def test_to_be_alike_is_mutual_and_shows_in_the_shapes(left: Any, right: Any) -> None:
    assert is_alike(left, left)
    assert is_alike(left, right) == is_alike(right, left)
    if is_alike(left, right) and not isinstance(left, str):
        assert is_same_shape(shape_of(left), shape_of(right))


@pytest.mark.parametrize(
    ("value", "form", "has"),
    [
        ("6a1f1e0c-0000-4000-8000-000000000001", "uuid", True),
        ("6a1f1e0c", "uuid", False),
        ("2026-01-01T00:00:00Z", "time", True),
        ("2026-99-01T00:00:00Z", "time", False),
        ("abc", "hex", True),
        ("abcx", "hex", False),
        (1, "hex", False),
        (1, "number", True),
        (True, "number", False),
    ],
)
def test_forms(value: Any, form: str, has: bool) -> None:
    assert has_form(value, form) is has


def test_two_hexadecimal_texts_are_of_equal_length() -> None:
    assert have_form("abc", "def", "hex")
    assert not have_form("abc", "defa", "hex")


@pytest.mark.parametrize(
    ("text", "tokens", "becomes"),
    [
        ("run 6a1f1e0c-0000-4000-8000-000000000001 ended", ["uuid"], "run {uuid} ended"),
        ("at 2026-01-01T00:00:00.5Z: x", ["time"], "at {time}: x"),
        (f"Merge {'a1' * 20} into 1a2b3c4", ["sha"], "Merge {sha40} into {sha7}"),
        ("a decade of 1234567 facade deadbeef", ["sha"], "a decade of 1234567 facade deadbeef"),
        ("6a1f1e0c-0000-4000-8000-000000000001", ["sha", "uuid"], "{uuid}"),
        ("6a1f1e0c-0000-4000-8000-000000000001", ["time"], "6a1f1e0c-0000-4000-8000-000000000001"),
    ],
)
def test_texts_are_normalised(text: str, tokens: list[str], becomes: str) -> None:
    assert normalised(text, tokens) == becomes
