"""Policies as JSON: what goes in comes out, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import (
    PPM_ALL,
    SCOPE_ALL,
    Epoch,
    GroupPolicy,
    Latch,
    LatchKind,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    ScopeKind,
    Stage,
)
from gateway.state.codec import (
    CodecError,
    decode_fields,
    decode_latch,
    decode_policy,
    encode_body,
    encode_latch,
    encode_policy,
)

NAMES = st.text(min_size=1, max_size=12)
KEYS = st.frozensets(NAMES, max_size=3)
SHARES = st.integers(0, PPM_ALL).map(Ppm)
SCOPES = st.just(SCOPE_ALL) | st.builds(Scope, st.sampled_from([ScopeKind.GROUP, ScopeKind.OPERATION]), NAMES)
LATCHES = st.builds(
    Latch, SCOPES, st.sampled_from(LatchKind), st.text(max_size=20), st.text(max_size=20),
    st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)), st.none() | NAMES,
)  # fmt: skip
POLICIES = st.builds(
    Policy,
    migration=NAMES,
    lineage=NAMES,
    epoch=st.integers(1, 2**53).map(Epoch),
    operations=st.dictionaries(NAMES, st.builds(OperationPolicy, st.sampled_from(Stage), SHARES, SHARES), max_size=4),
    groups=st.dictionaries(NAMES, st.builds(GroupPolicy, SHARES, KEYS, KEYS), max_size=3),
    latches=st.lists(LATCHES, max_size=3).map(lambda latches: {latch.scope: latch for latch in latches}),
)  # fmt: skip


@given(POLICIES)
def test_a_policy_comes_back_as_it_was(policy: Policy) -> None:
    assert decode_policy(encode_policy(policy)) == policy


@given(POLICIES)
def test_a_policy_comes_back_from_the_fields_of_its_hash(policy: Policy) -> None:
    fields = {
        b"lineage": policy.lineage.encode(),
        b"epoch": str(policy.epoch).encode(),
        b"body": encode_body(policy).encode(),
        **{f"kill:{scope}".encode(): encode_latch(latch).encode() for scope, latch in policy.latches.items()},
    }
    assert decode_fields(policy.migration, fields) == policy


@given(LATCHES)
def test_a_latch_comes_back_as_it_was(latch: Latch) -> None:
    assert decode_latch(str(latch.scope), encode_latch(latch)) == latch


@given(POLICIES)
def test_one_policy_has_one_text(policy: Policy) -> None:
    assert encode_policy(decode_policy(encode_policy(policy))) == encode_policy(policy)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_input_raises_anything_else(text: bytes) -> None:
    with pytest.raises(CodecError):
        decode_policy(text)


@pytest.mark.parametrize(
    "body",
    [
        '{"operations": {"a": {"stage": "live", "ppm": 1000001, "mirror_ppm": 0}}, "groups": {}}',
        '{"operations": {"a": {"stage": "live", "ppm": -1, "mirror_ppm": 0}}, "groups": {}}',
        '{"operations": {"a": {"stage": "live", "ppm": true, "mirror_ppm": 0}}, "groups": {}}',
        '{"operations": {"a": {"stage": "live", "ppm": 1.5, "mirror_ppm": 0}}, "groups": {}}',
        '{"operations": {"a": {"stage": "", "ppm": 1, "mirror_ppm": 0}}, "groups": {}}',
        '{"operations": {"a": {"stage": "live", "mirror_ppm": 0}}, "groups": {}}',
        '{"operations": {}, "groups": {"g": {"dual_ppm": 0, "allow": [1], "deny": []}}}',
        '{"operations": {}}',
        "null",
    ],
)
def test_a_body_that_this_version_would_not_write_is_refused(body: str) -> None:
    with pytest.raises(CodecError):
        decode_fields("git", {b"lineage": b"l", b"epoch": b"1", b"body": body.encode()})


def test_a_kill_without_a_time_zone_is_refused() -> None:
    with pytest.raises(CodecError):
        decode_latch("all", '{"kind": "kill", "reason": "", "by": "", "at": "2026-01-02T03:04:05"}')
