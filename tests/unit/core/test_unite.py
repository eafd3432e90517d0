from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decide import decide
from gateway.core.model import (
    PPM_ALL,
    Epoch,
    GroupPolicy,
    Latch,
    LatchKind,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    Side,
    Stage,
    Writes,
)
from gateway.core.snapshot import compile_snapshot
from gateway.core.unite import Verdict, judge, unite
from tests.unit.core.migrations import NOON, at, latch, policy, workspace

SHARES = st.sampled_from([Ppm(0), Ppm(10_000), Ppm(500_000), PPM_ALL])
NAMES = ["git.status", "git.log", "git.push", "git.commit", "ping"]
SCOPES = st.sampled_from(["all", "group:workspace", "operation:git.push", "operation:ping"]).map(Scope.parse)
PINS = st.frozensets(st.sampled_from(["a", "b", "c"]))
LATCHES = st.builds(
    Latch,
    SCOPES,
    st.sampled_from(LatchKind),
    st.sampled_from(["it burns", "drill"]),
    st.sampled_from(["alice", "detector"]),
    st.sampled_from([NOON, NOON + timedelta(seconds=1)]),
)
POLICIES = st.builds(
    Policy,
    st.just("git"),
    st.just("lineage"),
    st.sampled_from([Epoch(6), Epoch(7)]),
    st.dictionaries(st.sampled_from(NAMES), st.builds(OperationPolicy, st.sampled_from(Stage), SHARES, SHARES)),
    st.dictionaries(st.sampled_from(["workspace", "ping"]), st.builds(GroupPolicy, SHARES, PINS, PINS)),
    st.lists(LATCHES, max_size=3).map(lambda latches: {pulled.scope: pulled for pulled in latches}),
)


@pytest.mark.parametrize(
    ("known", "seen", "verdict"),
    [
        (None, policy(), Verdict.ADOPT),
        (policy(), policy(), Verdict.SAME),
        (policy(), policy(epoch=8), Verdict.ADOPT),
        (policy(), policy(epoch=6), Verdict.KEEP_LOWER_EPOCH),
        (policy(), policy({}, latch()), Verdict.UNITE),
        (policy(), policy({"ping": at(Stage.LIVE)}), Verdict.UNITE),
        (policy(), replace(policy(), lineage="other"), Verdict.KEEP_OTHER_LINEAGE),
        (policy(), replace(policy(epoch=99), lineage="other"), Verdict.KEEP_OTHER_LINEAGE),
    ],
)
def test_a_policy_that_was_read_is_judged_by_lineage_then_epoch_then_content(
    known: Policy | None, seen: Policy, verdict: Verdict
) -> None:
    assert judge(known, seen) is verdict


def test_only_policies_of_one_migration_and_lineage_are_united() -> None:
    for wrong in ([], [policy(), replace(policy(), lineage="other")], [policy(), replace(policy(), migration="other")]):
        with pytest.raises(ValueError, match="one lineage"):
            unite(wrong)


def test_the_safer_of_each_value_is_taken() -> None:
    one = policy(
        {"a": at(Stage.LIVE, 50, mirror=1), "b": at(Stage.OFF)}, groups={"g": GroupPolicy(Ppm(5), frozenset("xy"))}
    )
    other = policy(
        {"a": at(Stage.LIVE, 10, mirror=5), "b": at(Stage.LIVE, 1), "c": at(Stage.LIVE, 1)},
        groups={"g": GroupPolicy(Ppm(9), frozenset("yz"), frozenset("d"))},
    )
    united = unite([one, other])
    assert united.operations == {"a": at(Stage.LIVE, 10, mirror=1), "b": at(Stage.OFF), "c": at(Stage.OFF)}
    assert united.groups == {"g": GroupPolicy(Ppm(9), frozenset("y"), frozenset("d"))}


def test_the_highest_epoch_speaks_and_the_kills_of_all_stay() -> None:
    old = policy({"a": at(Stage.OFF)}, latch("operation:a"), epoch=6)
    new = policy({"a": at(Stage.LIVE, 50)}, latch("group:g"), epoch=7)
    united = unite([old, new])
    assert (united.epoch, united.operations) == (7, new.operations)
    assert set(united.latches) == {Scope.parse("operation:a"), Scope.parse("group:g")}


@pytest.mark.parametrize("order", [0, 1])
def test_of_two_accounts_of_one_kill_the_earlier_is_kept(order: int) -> None:
    accounts = [policy({}, latch(at=NOON)), policy({}, latch(at=NOON + timedelta(seconds=1)), epoch=8)]
    united = unite(accounts if order else reversed(accounts))
    assert united.latches == {latch().scope: latch(at=NOON)}


def test_a_kill_and_a_trip_of_one_moment_are_united_the_same_way_round_in_every_order() -> None:
    accounts = [policy({}, latch(kind=kind)) for kind in LatchKind]
    assert unite(accounts) == unite(reversed(accounts))


@given(st.lists(POLICIES, min_size=1, max_size=3))
def test_uniting_is_commutative_idempotent_and_associative(policies: list[Policy]) -> None:
    united = unite(policies)
    assert all(unite(order) == united for order in permutations(policies))
    assert unite([united]) == unite([united, united]) == unite([*policies, united]) == united
    if len(policies) > 1:
        assert unite([unite(policies[:-1]), policies[-1]]) == united


@given(st.lists(POLICIES, min_size=1, max_size=3))
def test_the_united_policy_is_never_less_safe_than_any_of_the_highest_epoch(policies: list[Policy]) -> None:
    united = unite(policies)
    highest = max(one.epoch for one in policies)
    assert united.epoch == highest
    for one in policies:
        assert set(one.latches) <= set(united.latches)
        if one.epoch < highest:
            continue
        for name, place in united.operations.items():
            theirs = one.operations.get(name, OperationPolicy())
            stage_order = list(Stage)
            assert stage_order.index(place.stage) <= stage_order.index(theirs.stage)
            assert place.stage is not theirs.stage or place.percent <= theirs.percent
            assert place.mirror <= theirs.mirror
        for name, group in united.groups.items():
            other = one.groups.get(name, GroupPolicy())
            assert group.allow <= other.allow
            assert group.deny >= other.deny
            assert group.dual >= other.dual


@given(
    st.sampled_from(Writes), st.lists(POLICIES, min_size=2, max_size=2), st.sampled_from(["a", "b", "k1", "k2", "k3"])
)
def test_no_key_goes_to_new_by_the_united_policy_that_stayed_on_old_by_one_of_them(
    writes: Writes, policies: list[Policy], key: str
) -> None:
    migration = workspace(writes)
    same_epoch = [replace(one, epoch=Epoch(7)) for one in policies]
    united = compile_snapshot(migration, unite(same_epoch))
    for one in same_epoch:
        plans = compile_snapshot(migration, one).plans
        for name in NAMES:
            if decide(plans[name], key).side is Side.OLD:
                assert decide(united.plans[name], key).side is Side.OLD
