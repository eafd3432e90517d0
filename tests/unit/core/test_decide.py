from __future__ import annotations

from contextlib import suppress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decide import Decision, Reason, decide, decide_default, decide_unknown, may_force
from gateway.core.model import (
    PPM_ALL,
    DefaultRoute,
    ErrorCode,
    GroupPolicy,
    Latch,
    OperationClass,
    OperationPolicy,
    Ppm,
    Side,
    Stage,
    Writes,
)
from gateway.core.refusal import Refusal
from gateway.core.side_choice import bucket_ppm, key_hash
from gateway.core.snapshot import Plan, compile_snapshot
from tests.unit.core.migrations import READ, WRITE, at, everywhere, latch, policy, workspace

OLD, NEW = Side.OLD, Side.NEW
OLD_STAGES = [Stage.OFF, Stage.SHADOW_READ, Stage.DUAL_WRITE, Stage.SHADOW]
NEW_STAGES = [Stage.RAMPDOWN, Stage.COMPLETE]
NAME = {READ: "git.status", WRITE: "git.push"}

# Half of the keys go: one key of each half.
INSIDE = next(key for key in map(str, range(99)) if bucket_ppm(key_hash("git:workspace", key)) < 400_000)
OUTSIDE = next(key for key in map(str, range(99)) if bucket_ppm(key_hash("git:workspace", key)) > 600_000)

EVERY_CASE = list(product(Stage, Writes, OperationClass))


def plan(
    stage: Stage,
    writes: Writes = Writes.NONE,
    op_class: OperationClass = READ,
    *latches: Latch,
    percent: float = 50,
    stale: bool = False,
    pinned: GroupPolicy | None = None,
) -> Plan:
    migration = workspace(writes)
    groups = {"workspace": pinned} if pinned else {}
    now = everywhere(at(stage, percent), migration, *latches, groups=groups)
    return compile_snapshot(migration, now, stale=stale).plans[NAME[op_class]]


def refusal_of(of: Plan, key: str | None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decide(of, key)
    return caught.value


@pytest.mark.parametrize(("stage", "writes", "op_class"), EVERY_CASE)
def test_the_stage_decides_for_a_key_inside_and_outside_the_share(
    stage: Stage, writes: Writes, op_class: OperationClass
) -> None:
    of = plan(stage, writes, op_class)
    if stage in OLD_STAGES:
        expected = Decision(OLD, Reason.STAGE), Decision(OLD, Reason.STAGE)
    elif stage is Stage.LIVE:
        expected = Decision(NEW, Reason.PERCENT), Decision(OLD, Reason.PERCENT)
    else:
        expected = Decision(NEW, Reason.STAGE), Decision(NEW, Reason.STAGE)
    assert (decide(of, INSIDE), decide(of, OUTSIDE)) == expected


@pytest.mark.parametrize(("stage", "writes", "op_class"), EVERY_CASE)
def test_without_a_key_old_serves_where_it_is_complete_and_a_copied_write_is_refused_from_live_on(
    stage: Stage, writes: Writes, op_class: OperationClass
) -> None:
    of = plan(stage, writes, op_class)
    if stage in OLD_STAGES:
        assert decide(of, None) == Decision(OLD, Reason.STAGE)
    elif writes is Writes.DUAL and op_class is WRITE:
        refusal = refusal_of(of, None)
        assert refusal.code is ErrorCode.KEY_REQUIRED
        assert "git.push" in refusal.message
        assert "workspace" in refusal.message
    elif stage is Stage.LIVE:
        assert decide(of, None) == Decision(OLD, Reason.NO_KEY)
    else:
        assert decide(of, None) == Decision(NEW, Reason.STAGE)


@pytest.mark.parametrize("stage", [Stage.LIVE, *NEW_STAGES])
def test_a_kill_does_not_let_a_keyless_copied_write_run_ahead_of_the_backlog_on_old(stage: Stage) -> None:
    assert refusal_of(plan(stage, Writes.DUAL, WRITE, latch()), None).code is ErrorCode.KEY_REQUIRED


@pytest.mark.parametrize(("stage", "writes", "op_class"), EVERY_CASE)
@pytest.mark.parametrize("scope", ["all", "group:workspace", "operation"])
def test_a_kill_wins_over_everything(stage: Stage, writes: Writes, op_class: OperationClass, scope: str) -> None:
    named = f"operation:{NAME[op_class]}" if scope == "operation" else scope
    pinned = GroupPolicy(allow=frozenset({INSIDE}))
    of = plan(stage, writes, op_class, latch(named), percent=100, pinned=pinned)
    assert decide(of, INSIDE, pending=NEW, force=NEW) == Decision(OLD, Reason.KILL)
    assert of.effective == 0


@pytest.mark.parametrize(("stage", "pending"), list(product(Stage, Side)))
def test_a_key_with_unapplied_writes_stays_where_they_are_in_every_stage(stage: Stage, pending: Side) -> None:
    pinned = GroupPolicy(allow=frozenset({"pinned"}), deny=frozenset({INSIDE}))
    of = plan(stage, Writes.DUAL, pinned=pinned)
    for key, force in product((INSIDE, OUTSIDE, "pinned"), (None, OLD, NEW)):
        assert decide(of, key, pending=pending, force=force).side is pending


@pytest.mark.parametrize(
    ("stage", "pending", "reason"),
    [
        (Stage.OFF, OLD, Reason.STAGE),
        (Stage.OFF, NEW, Reason.PENDING),
        (Stage.SHADOW, NEW, Reason.PENDING),
        (Stage.LIVE, OLD, Reason.PENDING),
        (Stage.LIVE, NEW, Reason.PENDING),
        (Stage.RAMPDOWN, OLD, Reason.PENDING),
        (Stage.RAMPDOWN, NEW, Reason.STAGE),
    ],
)
def test_pending_is_the_reason_only_where_something_else_would_have_decided(
    stage: Stage, pending: Side, reason: Reason
) -> None:
    assert decide(plan(stage, Writes.DUAL), INSIDE, pending=pending).reason is reason


def test_the_order_within_live_is_deny_allow_force_percent() -> None:
    pinned = GroupPolicy(allow=frozenset({"both", "allowed"}), deny=frozenset({"both", "denied"}))
    of = plan(Stage.LIVE, pinned=pinned)
    assert decide(of, "both", force=NEW) == Decision(OLD, Reason.DENY)
    assert decide(of, "denied", force=NEW) == Decision(OLD, Reason.DENY)
    assert decide(of, "allowed", force=OLD) == Decision(NEW, Reason.ALLOW)
    assert decide(of, INSIDE, force=OLD) == Decision(OLD, Reason.FORCE)
    assert decide(of, OUTSIDE, force=NEW) == Decision(NEW, Reason.FORCE)
    assert decide(of, INSIDE) == Decision(NEW, Reason.PERCENT)


@pytest.mark.parametrize("stage", [*OLD_STAGES, *NEW_STAGES])
def test_pinned_keys_and_force_act_in_live_only(stage: Stage) -> None:
    pinned = GroupPolicy(allow=frozenset({INSIDE}), deny=frozenset({OUTSIDE}))
    of = plan(stage, pinned=pinned)
    for key, force in product((INSIDE, OUTSIDE), (None, OLD, NEW)):
        assert decide(of, key, force=force).reason is Reason.STAGE


@pytest.mark.parametrize(
    ("writes", "op_class", "heeded"),
    [
        (Writes.DUAL, READ, True),
        (Writes.NONE, READ, True),
        (Writes.SHARED, READ, True),
        (Writes.DUAL, WRITE, False),
        (Writes.NONE, WRITE, False),
        (Writes.SHARED, WRITE, True),
    ],
)
def test_force_is_for_reads_and_for_anything_over_a_shared_store(
    writes: Writes, op_class: OperationClass, heeded: bool
) -> None:
    of = plan(Stage.LIVE, writes, op_class)
    assert may_force(of) is heeded
    expected = Decision(NEW, Reason.FORCE) if heeded else Decision(OLD, Reason.PERCENT)
    assert decide(of, OUTSIDE, force=NEW) == expected


@pytest.mark.parametrize("force", [None, NEW])
def test_force_without_a_key_changes_nothing(force: Side | None) -> None:
    assert decide(plan(Stage.LIVE), None, force=force) == Decision(OLD, Reason.NO_KEY)


@pytest.mark.parametrize("stage", Stage)
def test_a_stale_policy_behaves_as_killed_up_to_shadow_and_keeps_the_last_word_after(stage: Stage) -> None:
    of = plan(stage, Writes.DUAL, stale=True)
    decided = decide(of, INSIDE, pending=NEW)
    assert decided.reason is (Reason.STALE_POLICY if stage in OLD_STAGES else decided.reason)
    assert decided.side is (OLD if stage in OLD_STAGES else NEW)


@pytest.mark.parametrize("side", Side)
def test_what_no_operation_matches_goes_to_the_side_of_the_default_route(side: Side) -> None:
    migration = workspace(Writes.NONE, default=DefaultRoute(side=side))
    assert decide_default(compile_snapshot(migration, policy())) == Decision(side, Reason.DEFAULT)


def test_a_kill_of_everything_takes_the_default_route_back_too() -> None:
    migration = workspace(Writes.NONE, default=DefaultRoute(side=NEW))
    killed = compile_snapshot(migration, policy({}, latch("all")))
    assert decide_default(killed) == Decision(OLD, Reason.KILL)
    assert decide_unknown(killed) == Decision(OLD, Reason.KILL)
    by_file = compile_snapshot(migration, policy(), external={latch().scope: latch()})
    assert decide_default(by_file) == Decision(OLD, Reason.KILL)


@pytest.mark.parametrize("scope", ["group:workspace", "operation:ping"])
def test_a_lesser_kill_leaves_the_default_route_alone(scope: str) -> None:
    migration = workspace(Writes.SHARED, default=DefaultRoute(side=NEW))
    assert decide_default(compile_snapshot(migration, policy({}, latch(scope)))).side is NEW


@pytest.mark.parametrize(("stage", "writes"), list(product(Stage, Writes)))
def test_an_operation_that_cannot_be_told_is_refused_where_it_may_be_a_copied_write(
    stage: Stage, writes: Writes
) -> None:
    migration = workspace(writes)
    snapshot = compile_snapshot(migration, everywhere(at(stage), migration))
    if writes is Writes.DUAL and stage not in OLD_STAGES:
        with pytest.raises(Refusal) as caught:
            decide_unknown(snapshot)
        assert caught.value.code is ErrorCode.KEY_REQUIRED
    else:
        assert decide_unknown(snapshot) == Decision(OLD, Reason.DEFAULT)


SHARES = st.one_of(st.sampled_from([0, 1, 500_000, 1_000_000]), st.integers(0, PPM_ALL)).map(Ppm)
PLACES = st.builds(OperationPolicy, st.sampled_from(Stage), SHARES)
LATCHES = st.lists(st.sampled_from(["all", "group:workspace", "operation:git.push", "operation:git.log"]), max_size=2)
KEYS = st.sampled_from([INSIDE, OUTSIDE, "pinned", *map(str, range(20))])
PINS = st.builds(
    GroupPolicy,
    allow=st.frozensets(st.sampled_from(["pinned", INSIDE, OUTSIDE])),
    deny=st.frozensets(st.sampled_from(["pinned", INSIDE, OUTSIDE])),
)


@given(
    st.fixed_dictionaries(dict.fromkeys(workspace(Writes.NONE).operations, PLACES)),
    LATCHES,
    PINS,
    KEYS,
    st.booleans(),
)
def test_in_a_group_without_copies_every_operation_of_a_key_goes_to_one_side_at_any_policy(
    places: dict[str, OperationPolicy], scopes: list[str], pins: GroupPolicy, key: str, stale: bool
) -> None:
    migration = workspace(Writes.NONE)
    now = policy(places, *map(latch, scopes), groups={"workspace": pins})
    plans = compile_snapshot(migration, now, stale=stale).plans
    members = migration.groups["workspace"].operations
    assert len({decide(plans[name], key).side for name in members}) == 1


@given(
    st.sampled_from(Writes),
    st.fixed_dictionaries(dict.fromkeys(workspace(Writes.NONE).operations, PLACES)),
    st.sampled_from(["git.status", "git.log", "git.push", "git.commit", "ping"]),
    st.one_of(st.none(), KEYS),
    st.sampled_from([None, OLD, NEW]),
    st.sampled_from([None, OLD, NEW]),
    st.booleans(),
)
def test_with_a_kill_of_everything_nothing_goes_to_new(
    writes: Writes,
    places: dict[str, OperationPolicy],
    name: str,
    key: str | None,
    pending: Side | None,
    force: Side | None,
    independent: bool,
) -> None:
    migration = workspace(writes, independent=independent, default=DefaultRoute(side=NEW))
    snapshot = compile_snapshot(migration, policy(places, latch("all")))
    with suppress(Refusal):
        assert decide(snapshot.plans[name], key, pending=pending, force=force).side is OLD
    with suppress(Refusal):
        assert decide_unknown(snapshot).side is OLD


@given(st.fixed_dictionaries(dict.fromkeys(workspace(Writes.NONE).operations, PLACES)), KEYS)
def test_in_a_dual_group_a_key_is_never_read_from_new_while_its_writes_stay_on_old(
    places: dict[str, OperationPolicy], key: str
) -> None:
    plans = compile_snapshot(workspace(Writes.DUAL), policy(places)).plans
    reads = {decide(plans[name], key).side for name in ("git.status", "git.log")}
    writes = {decide(plans[name], key).side for name in ("git.push", "git.commit")}
    assert len(writes) == 1
    assert reads == {OLD} or writes == {NEW}
