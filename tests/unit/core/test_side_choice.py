from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import PPM_ALL, PPM_NONE, Ppm
from gateway.core.side_choice import bucket_ppm, key_hash, share_limit


class Vector(TypedDict):
    salt: str
    key: str
    hash_hex: str
    bucket_ppm: int


VECTORS: list[Vector] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "side_choice.json").read_text(encoding="utf-8")
)
SHARES = st.integers(0, PPM_ALL).map(Ppm)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
STEPS = [Ppm(10_000), Ppm(100_000), Ppm(250_000), Ppm(500_000)]


def is_new(salt: str, key: str, share: Ppm) -> bool:
    return key_hash(salt, key) < share_limit(share)


def share_of(hashes: list[int], share: Ppm) -> float:
    return 100 * sum(h < share_limit(share) for h in hashes) / len(hashes)


def test_every_published_vector_is_what_its_formula_says() -> None:
    for vector in VECTORS:
        text = f"{vector['salt']}:{vector['key']}"
        digest = sha256(text.encode("utf-8")).hexdigest()
        assert digest[:16] == vector["hash_hex"], vector
        assert vector["bucket_ppm"] == int(digest[:16], 16) * 1_000_000 // 2**64, vector


def test_this_implementation_gives_every_published_vector() -> None:
    for vector in VECTORS:
        h = key_hash(vector["salt"], vector["key"])
        assert (f"{h:016x}", bucket_ppm(h)) == (vector["hash_hex"], vector["bucket_ppm"]), vector


def test_the_published_vectors_hold_the_awkward_keys() -> None:
    keys = {vector["key"] for vector in VECTORS}
    assert len(VECTORS) > 1000
    assert len({(vector["salt"], vector["key"]) for vector in VECTORS}) == len(VECTORS)
    assert {"", "a", "ключ-é", "x" * 256} <= keys
    assert any(ord(character) > 0xFFFF for key in keys for character in key)
    assert max(len(key.encode()) for key in keys) > 1000


@pytest.mark.parametrize(
    ("salt", "key", "hash_hex", "of_10_000"),
    [
        ("m1:getOrder:read", "user-1", "174bf913d07d320a", 910),
        ("m1:getOrder:read", "user-2", "b9c47bf348a5b0e5", 7256),
        ("m1:getOrder:write", "user-1", "fbd0a36c798b3f5f", 9836),
        ("m1:getOrder:read", "ключ-é", "3aee9c901c1fcf2f", 2302),
        ("m1:getOrder:read", "10.0.0.1", "5c12c50b6a2e3dcd", 3596),
    ],
)
def test_values_computed_elsewhere_before_this_code_existed_still_hold(
    salt: str, key: str, hash_hex: str, of_10_000: int
) -> None:
    h = key_hash(salt, key)
    assert (f"{h:016x}", h * 10_000 >> 64) == (hash_hex, of_10_000)
    assert bucket_ppm(h) // 100 == of_10_000


def test_the_separator_keeps_salt_and_key_apart() -> None:
    assert key_hash("ab", "c") != key_hash("a", "bc")


@pytest.mark.parametrize("share", STEPS)
def test_the_share_over_the_vectors_is_within_three_tenths_of_a_point(share: Ppm) -> None:
    target = 100 * share / PPM_ALL
    as_published = [int(vector["hash_hex"], 16) for vector in VECTORS]
    under_one_salt = [key_hash("git:workspace", key) for key in sorted({vector["key"] for vector in VECTORS})]
    assert share_of(as_published, share) == pytest.approx(target, abs=0.3)
    assert share_of(under_one_salt, share) == pytest.approx(target, abs=0.3)


@pytest.mark.parametrize(
    "name",
    [
        lambda n: f"agent-{n}/task-{n % 7}",
        lambda n: f"user-{n}",
        lambda n: str(10**9 + n),
        lambda n: f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
    ],
    ids=["agents", "users", "sequential-numbers", "addresses"],
)
def test_the_share_over_any_100_000_keys_is_within_six_tenths_of_a_point(name: Callable[[int], str]) -> None:
    hashes = [key_hash("git:workspace", name(n)) for n in range(100_000)]
    for share in STEPS:
        assert share_of(hashes, share) == pytest.approx(100 * share / PPM_ALL, abs=0.6)


def test_two_salts_split_the_same_keys_independently() -> None:
    half = share_limit(Ppm(500_000))
    keys = [f"agent-{n}" for n in range(20_000)]
    both = sum(key_hash("git:workspace", key) < half and key_hash("git:billing", key) < half for key in keys)
    assert 100 * both / len(keys) == pytest.approx(25, abs=1.5)  # five standard deviations


@given(TEXT, TEXT, SHARES, SHARES)
def test_raising_the_share_never_moves_a_key_back(salt: str, key: str, one: Ppm, other: Ppm) -> None:
    low, high = sorted((one, other))
    assert is_new(salt, key, high) or not is_new(salt, key, low)


@given(TEXT, TEXT, SHARES, SHARES)
def test_lowering_moves_back_exactly_the_last_keys_that_came(salt: str, key: str, one: Ppm, other: Ppm) -> None:
    low, high = sorted((one, other))
    moves_back = is_new(salt, key, high) and not is_new(salt, key, low)
    assert moves_back == (share_limit(low) <= key_hash(salt, key) < share_limit(high))


@given(TEXT, TEXT)
def test_nobody_goes_at_0_and_everybody_at_100_percent(salt: str, key: str) -> None:
    assert not is_new(salt, key, PPM_NONE)
    assert is_new(salt, key, PPM_ALL)


@pytest.mark.parametrize(("h", "bucket"), [(0, 0), (2**64 - 1, 999_999), (2**63, 500_000), (2**63 - 1, 499_999)])
def test_the_ends_of_the_hash_range_have_buckets(h: int, bucket: int) -> None:
    assert bucket_ppm(h) == bucket


@pytest.mark.parametrize("share", [Ppm(0), Ppm(1), Ppm(333_333), Ppm(999_999), PPM_ALL])
def test_the_limit_is_exact_integer_arithmetic(share: Ppm) -> None:
    assert share_limit(share) == int(share) * 2**64 // 10**6


@given(TEXT, TEXT)
def test_the_bucket_is_the_share_above_which_a_key_goes_to_new(salt: str, key: str) -> None:
    bucket = bucket_ppm(key_hash(salt, key))
    assert is_new(salt, key, Ppm(bucket + 1))
    assert bucket == 0 or not is_new(salt, key, Ppm(bucket - 1))
