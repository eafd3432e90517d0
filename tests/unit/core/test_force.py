from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.force import sign, verify
from gateway.core.model import Side

SECRET = b"s" * 32
NOW = 1_772_366_400
VALUE = sign(SECRET, "git", Side.NEW, NOW + 3600).encode()


def check(value: bytes, *, secret: bytes = SECRET, migration: str = "git", now: float = NOW) -> Side | None:
    return verify(secret, migration, value, now)


def test_the_value_has_the_published_form() -> None:
    signature = hmac.new(SECRET, f"git|new|{NOW}".encode(), sha256).hexdigest()
    assert sign(SECRET, "git", Side.NEW, NOW) == f"new;exp={NOW};sig={signature}"


@pytest.mark.parametrize("side", Side)
def test_a_signed_value_names_its_side(side: Side) -> None:
    assert check(sign(SECRET, "git", side, NOW + 1).encode()) is side


def test_spaces_around_the_value_are_no_part_of_it() -> None:
    assert check(b" \t" + VALUE + b" ") is Side.NEW


@pytest.mark.parametrize(("now", "side"), [(NOW + 3599, Side.NEW), (NOW + 3599.9, Side.NEW), (NOW + 3600, None)])
def test_a_value_expires(now: float, side: Side | None) -> None:
    assert check(VALUE, now=now) is side


def test_a_value_is_for_one_migration_and_one_secret() -> None:
    assert check(VALUE, migration="shop") is None
    assert check(VALUE, secret=b"t" * 32) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"new",
        VALUE.replace(b"new", b"old"),
        VALUE.replace(b"new", b"New"),
        VALUE.replace(b"exp=1", b"exp=2"),
        VALUE.replace(b"exp=", b"exp=0"),
        VALUE.replace(b"exp=", b"exp=+"),
        VALUE.replace(b"exp=", b"exp=-"),
        VALUE.replace(b";", b"; "),
        VALUE[:-1],
        VALUE + b"0",
        VALUE + b"\n",
        VALUE + b"," + VALUE,
        VALUE[:-64] + VALUE[-64:].upper(),
        VALUE.split(b";sig=")[0],
        VALUE.replace(b"exp=", "exp=٣".encode()),
        b"new;exp=" + b"9" * 400 + b";sig=" + b"0" * 64,
    ],
)
def test_anything_else_is_no_force(value: bytes) -> None:
    assert check(value) is None


@given(st.integers(0, len(VALUE) - 1), st.integers(0, 255))
def test_no_byte_can_be_changed(at: int, byte: int) -> None:
    changed = VALUE[:at] + bytes((byte,)) + VALUE[at + 1 :]
    assert check(changed) is (Side.NEW if changed == VALUE else None)


@given(st.binary(max_size=100))
def test_no_value_breaks_the_check(value: bytes) -> None:
    assert check(value) is None
