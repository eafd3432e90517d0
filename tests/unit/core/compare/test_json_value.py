"""What counts as JSON that can be compared."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gateway.core.compare.json_value import DEPTH, UnreadableError, canonical, parse


def test_numbers_are_exact() -> None:
    assert parse("[12345678901234567890123, 0.1, 1e2]") == [12345678901234567890123, Decimal("0.1"), Decimal("1e2")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1',
        "[1,]",
        "NaN",
        "[Infinity]",
        "-Infinity",
        '{"a": 1, "a": 1}',
        '{"x": {"a": 1, "a": 2}}',
        "1 2",
        "9" * 5000,
        "0." + "9" * 5000,
        "[" * 10_000,
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        "[" * (DEPTH + 1) + "]" * (DEPTH + 1),
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse(text)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UnreadableError):
        parse(b'"\xff"')


def test_the_deepest_that_is_read() -> None:
    parse("[" * DEPTH + "]" * DEPTH)


def test_a_surrogate_alone_has_a_canonical_form() -> None:
    assert canonical(parse(r'"\ud800"'))


def test_equal_values_have_one_canonical_form() -> None:
    assert canonical(parse('{"a": 1.50, "b": 2}')) == canonical(parse('{"b":2,"a":1.5}'))
    assert canonical(parse("1")) != canonical(parse('"1"'))
