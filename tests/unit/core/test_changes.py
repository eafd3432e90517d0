from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.changes import Change, Changed, change_group, change_operation
from gateway.core.detect.guard import POOLED
from gateway.core.file_changes import adopt_new, apply_file, difference, initial_policy
from gateway.core.file_policy import FilePolicy
from gateway.core.kills import TRIP_COOL_DOWN, kill_is_lossless, rearm, scope_exists
from gateway.core.model import (
    PPM_ALL,
    PPM_NONE,
    SCOPE_ALL,
    Definition,
    GroupPolicy,
    LatchKind,
    OperationClass,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    ScopeKind,
    Stage,
    Writes,
)
from gateway.core.percent import parse_percent
from gateway.core.roles import Role
from gateway.core.rules import RuleViolation, check_holds
from gateway.core.snapshot import is_bound, lead_of, progress, settled_policies
from gateway.core.stages import TABLE, next_stages, previous_stages, rank, stages_of
from tests.unit.core.migrations import (
    NOON,
    READ,
    WRITE,
    at,
    definition,
    everywhere,
    latch,
    operation,
    policy,
    workspace,
)

OFF, LIVE, RAMPDOWN = Stage.OFF, Stage.LIVE, Stage.RAMPDOWN
LATER = NOON + TRIP_COOL_DOWN
BOUND = ["git.status", "git.log", "git.push", "git.commit"]


def share(percent: float) -> Ppm:
    return Ppm(round(percent * 10_000))


def violation(act: Callable[[], object]) -> RuleViolation:
    with pytest.raises(RuleViolation) as caught:
        act()
    return caught.value


def obey(over: Definition, now: Policy, command: str, when: datetime = LATER) -> Policy:
    """Carries out a command as an operator types it."""
    verb, target, *rest = shlex.split(command.removeprefix("crossfade "))
    assert rest[-2:] == ["--reason", "…"]
    if verb == "rearm":
        percent = parse_percent(float(rest[1])) if rest[0] == "--percent" else None
        return rearm(over, now, Scope.parse(target), percent=percent, now=when)[0]
    change = (
        Change(stage=Stage(rest[0]), skip="--skip" in rest)
        if verb == "stage"
        else Change(percent=parse_percent(float(rest[0])))
    )
    act = change_group if target in over.groups else change_operation
    return act(over, now, target, change).policy


# --- stages ---


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("writes", Writes)
@pytest.mark.parametrize("wanted", Stage)
@pytest.mark.parametrize("stage", Stage)
def test_every_step_is_carried_out_or_refused_by_the_table(
    stage: Stage, wanted: Stage, writes: Writes, skip: bool
) -> None:
    migration = workspace(writes)
    percent = 100 if rank(stage) > rank(LIVE) else 0
    now = everywhere(at(stage, percent), migration)
    change = Change(stage=wanted, skip=skip)
    is_forward = rank(wanted) > rank(stage)
    legal = (*next_stages(writes, stage), *previous_stages(writes, stage))
    if wanted is stage:
        assert change_group(migration, now, "workspace", change).is_none
    elif wanted not in stages_of(writes):
        refused = violation(lambda: change_group(migration, now, "workspace", change))
        assert (refused.rule, refused.code) == ("stage_needs_dual_writes", "rule_violation")
    elif not TABLE[wanted].available:
        refused = violation(lambda: change_group(migration, now, "workspace", change))
        assert refused.code == "not_yet_available"
    elif wanted in legal or (is_forward and skip):
        changed = change_group(migration, now, "workspace", change)
        settled = settled_policies(migration, changed.policy)
        assert {settled[name].stage for name in BOUND} == {wanted}
        assert {settled[name].percent for name in BOUND} == {PPM_NONE}
        assert changed.fields["stage"] == (str(stage), str(wanted))
        assert changed.role is (Role.APPROVER if is_forward or skip else Role.OPERATOR)
    else:
        refused = violation(lambda: change_group(migration, now, "workspace", change))
        expected = "one_stage_at_a_time" if is_forward else "back_from_live_means_shadow"
        assert refused.rule == ("complete_is_final" if stage is Stage.COMPLETE else expected)


@pytest.mark.parametrize("writes", Writes)
def test_off_and_live_are_one_step_apart_until_dual_writes_are_built(writes: Writes) -> None:
    migration = workspace(writes)
    there = change_group(migration, everywhere(at(OFF), migration), "workspace", Change(stage=LIVE, percent=share(10)))
    assert there.policy.operations["git.push"] == at(LIVE, 10)
    back = change_group(migration, there.policy, "workspace", Change(stage=OFF))
    assert back.policy.operations["git.push"] == at(OFF)
    assert (there.role, back.role) == (Role.APPROVER, Role.OPERATOR)


def test_entering_live_without_a_share_begins_at_nothing_and_staying_keeps_it() -> None:
    migration = workspace(Writes.NONE)
    entered = change_group(migration, everywhere(at(OFF), migration), "workspace", Change(stage=LIVE)).policy
    assert entered.operations["git.push"] == at(LIVE)
    raised = change_group(migration, entered, "workspace", Change(percent=share(25))).policy
    assert change_group(migration, raised, "workspace", Change(stage=LIVE)).is_none


def test_the_epoch_is_left_to_the_store() -> None:
    migration = workspace(Writes.NONE)
    changed = change_group(migration, everywhere(at(LIVE), migration, epoch=41), "workspace", Change(percent=share(1)))
    assert changed.policy.epoch == 41


# --- shares ---


@pytest.mark.parametrize("percent", [0, 0.0001, 10, 100])
def test_a_share_moves_the_whole_group_and_tells_before_and_after(percent: float) -> None:
    migration = workspace(Writes.NONE)
    changed = change_group(migration, everywhere(at(LIVE, 50), migration), "workspace", Change(percent=share(percent)))
    assert {changed.policy.operations[name] for name in BOUND} == {at(LIVE, percent)}
    assert changed.policy.operations["ping"] == at(LIVE, 50)
    assert changed.fields == {"percent": (50, percent)}
    assert changed.role is Role.OPERATOR


@pytest.mark.parametrize("writes", Writes)
def test_no_change_is_no_change(writes: Writes) -> None:
    migration = workspace(writes)
    now = everywhere(at(LIVE, 10, mirror=5), migration)
    same = Change(stage=LIVE, percent=share(10), mirror=share(5), dual=PPM_NONE)
    for changed in (
        change_group(migration, now, "workspace", same),
        change_operation(migration, now, "git.log", replace(same, dual=None)),
    ):
        assert changed.is_none
        assert changed.policy is now


@pytest.mark.parametrize(
    ("stage", "legal"),
    [
        (OFF, "crossfade stage workspace live --reason …"),
        (Stage.SHADOW_READ, "crossfade stage workspace live --reason …"),
        (RAMPDOWN, "crossfade stage workspace shadow_read --reason …"),
        (Stage.COMPLETE, None),
    ],
)
def test_a_share_outside_live_is_refused(stage: Stage, legal: str | None) -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(stage, 100 if rank(stage) > rank(LIVE) else 0), migration)
    for act, name in ((change_group, "workspace"), (change_operation, "git.push")):
        refused = violation(lambda act=act, name=name: act(migration, now, name, Change(percent=share(10))))  # type: ignore[misc]
        assert (refused.code, refused.legal) == ("stage_has_no_share", legal)


def test_leaving_live_with_a_share_is_refused_and_the_share_alone_is_legal() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(LIVE, 50), migration)
    refused = violation(lambda: change_group(migration, now, "workspace", Change(stage=OFF, percent=share(10))))
    assert (refused.code, refused.legal) == ("stage_has_no_share", "crossfade share workspace 10 --reason …")


@pytest.mark.parametrize("percent", [0, 100])
def test_saying_the_share_that_a_stage_has_anyway_is_no_breach(percent: float) -> None:
    migration = workspace(Writes.NONE)
    stage = RAMPDOWN if percent else OFF
    now = everywhere(at(stage, percent), migration)
    assert change_group(migration, now, "workspace", Change(percent=share(percent))).is_none


# --- what a group shares ---


@pytest.mark.parametrize(
    ("writes", "independent", "name", "is_refused"),
    [
        (Writes.NONE, False, "git.push", True),
        (Writes.NONE, False, "git.status", True),
        (Writes.DUAL, False, "git.push", True),
        (Writes.DUAL, False, "git.status", False),
        (Writes.DUAL, True, "git.push", False),
        (Writes.SHARED, False, "git.push", False),
        (Writes.SHARED, False, "git.status", False),
        (Writes.NONE, False, "ping", False),
        (Writes.DUAL, False, "ping", False),
    ],
)
def test_who_shares_the_groups_stage_and_share(writes: Writes, independent: bool, name: str, is_refused: bool) -> None:
    migration = workspace(writes, independent=independent)
    now = everywhere(at(LIVE, 50), migration)
    for change, legal in (
        (Change(percent=share(12.5)), "crossfade share workspace 12.5 --reason …"),
        (Change(stage=OFF), "crossfade stage workspace off --reason …"),
    ):
        if is_refused:
            refused = violation(lambda change=change: change_operation(migration, now, name, change))  # type: ignore[misc]
            assert (refused.code, refused.rule, refused.legal) == ("group_share", "group_share", legal)
        else:
            after = change_operation(migration, now, name, change).policy.operations
            assert after[name] != at(LIVE, 50)
            assert {after[other] for other in BOUND if other != name} == {at(LIVE, 50)}


def test_a_read_of_a_dual_group_may_lag_and_never_lead() -> None:
    migration = workspace(Writes.DUAL)
    now = everywhere(at(LIVE, 50), migration)
    lagging = change_operation(migration, now, "git.status", Change(percent=share(10))).policy
    assert lagging.operations["git.status"] == at(LIVE, 10)
    refused = violation(lambda: change_operation(migration, now, "git.status", Change(percent=share(51))))
    assert (refused.rule, refused.legal) == ("reads_never_lead", "crossfade share workspace 51 --reason …")
    off = everywhere(at(OFF), migration)
    refused = violation(lambda: change_operation(migration, off, "git.status", Change(stage=LIVE)))
    assert (refused.rule, refused.legal) == ("reads_never_lead", "crossfade stage workspace live --reason …")


def test_a_groups_share_leaves_reads_alone_that_lag_in_an_earlier_stage() -> None:
    migration = workspace(Writes.DUAL)
    now = policy({**dict.fromkeys(BOUND, at(LIVE, 10)), "git.status": at(OFF)})
    after = change_group(migration, now, "workspace", Change(percent=share(50))).policy.operations
    assert after["git.status"] == at(OFF)
    assert {after[name] for name in BOUND if name != "git.status"} == {at(LIVE, 50)}


# --- mirror and dual shares ---


def test_reads_are_mirrored_and_writes_never() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(OFF), migration)
    after = change_group(migration, now, "workspace", Change(mirror=share(5))).policy.operations
    assert (after["git.status"].mirror, after["git.push"].mirror) == (share(5), PPM_NONE)
    assert violation(lambda: change_operation(migration, now, "git.push", Change(mirror=share(5)))).rule == (
        "mirror_reads_only"
    )
    alone = change_operation(migration, now, "git.status", Change(mirror=share(5)))
    assert (alone.fields, alone.role) == ({"mirror_percent": (0, 5)}, Role.OPERATOR)


def test_dual_shares_belong_to_groups_and_are_not_available_yet() -> None:
    migration = workspace(Writes.DUAL)
    now = everywhere(at(OFF), migration)
    change = Change(dual=share(50))
    assert violation(lambda: change_operation(migration, now, "git.push", change)).code == "rule_violation"
    assert violation(lambda: change_group(migration, now, "workspace", change)).code == "not_yet_available"


def test_what_does_not_exist_is_a_key_error() -> None:
    migration = workspace(Writes.NONE)
    with pytest.raises(KeyError):
        change_operation(migration, policy(), "nothing", Change())
    with pytest.raises(KeyError):
        change_group(migration, policy(), "nothing", Change())


# --- kills ---


@pytest.mark.parametrize("scope", ["all", "group:workspace", "operation:git.commit"])
def test_what_is_killed_goes_forward_only_after_its_re_arm(scope: str) -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(OFF), migration, latch(scope))
    refused = violation(lambda: change_group(migration, now, "workspace", Change(stage=LIVE)))
    assert (refused.rule, refused.legal) == ("killed", f"crossfade rearm {scope} --reason …")


def test_what_is_killed_may_go_back_and_change_its_share() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(LIVE, 50), migration, latch("all"))
    assert change_group(migration, now, "workspace", Change(percent=share(5))).fields == {"percent": (50, 5)}
    assert change_group(migration, now, "workspace", Change(stage=OFF)).role is Role.OPERATOR


def test_a_kill_elsewhere_does_not_hold_up_a_group() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(OFF), migration, latch("operation:ping"))
    assert change_group(migration, now, "workspace", Change(stage=LIVE)).fields["stage"] == ("off", "live")


@pytest.mark.parametrize(
    ("stored", "asked", "after"),
    [(50, None, 1), (0.5, None, 0.5), (0, None, 0), (50, 25, 25), (50, 50, 50), (50, 0, 0)],
)
def test_a_re_armed_operation_re_enters_at_the_first_step_or_at_what_is_said(
    stored: float, asked: float | None, after: float
) -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(LIVE, stored), migration, latch("all"))
    percent = None if asked is None else share(asked)
    policy_after, removed = rearm(migration, now, SCOPE_ALL, percent=percent, now=NOON)
    assert removed == latch("all")
    assert policy_after.latches == {}
    assert set(policy_after.operations.values()) == {at(LIVE, after)}


@pytest.mark.parametrize("stage", [OFF, RAMPDOWN, Stage.COMPLETE])
def test_a_re_arm_moves_live_operations_only(stage: Stage) -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(stage, 100 if rank(stage) > rank(LIVE) else 0), migration, latch("all"))
    assert rearm(migration, now, SCOPE_ALL, percent=None, now=NOON)[0].operations == now.operations


def test_a_re_arm_removes_exactly_its_latch_and_moves_only_what_that_covered() -> None:
    migration = workspace(Writes.NONE)
    both = everywhere(at(LIVE, 50), migration, latch("operation:ping"), latch("group:workspace"))
    after, _ = rearm(migration, both, Scope.parse("operation:ping"), percent=None, now=NOON)
    assert list(after.latches) == [Scope.parse("group:workspace")]
    assert after.operations["ping"] == at(LIVE, 1)
    assert {after.operations[name] for name in BOUND} == {at(LIVE, 50)}


def test_a_kill_that_widened_to_its_group_re_arms_the_group() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(LIVE, 50), migration, latch("operation:git.push"))
    after, _ = rearm(migration, now, Scope.parse("operation:git.push"), percent=None, now=NOON)
    assert {after.operations[name] for name in BOUND} == {at(LIVE, 1)}
    assert after.operations["ping"] == at(LIVE, 50)


def test_a_re_arm_raises_nothing() -> None:
    migration = workspace(Writes.DUAL)
    places = {**dict.fromkeys(BOUND, at(LIVE, 50)), "git.status": at(LIVE, 5), "ping": at(LIVE)}
    now = policy(places, latch("all"))
    refused = violation(lambda: rearm(migration, now, SCOPE_ALL, percent=share(51), now=NOON))
    assert (refused.rule, refused.legal) == (
        "rearm_within_stored",
        "crossfade rearm all --percent 50 --reason …",
    )
    after = rearm(migration, now, SCOPE_ALL, percent=share(25), now=NOON)[0].operations
    assert (after["git.push"], after["git.status"], after["ping"]) == (at(LIVE, 25), at(LIVE, 5), at(LIVE))


@pytest.mark.parametrize("scope", ["all", "group:workspace"])
def test_a_trip_cools_down_and_a_kill_by_hand_does_not(scope: str) -> None:
    migration = workspace(Writes.NONE)
    tripped = everywhere(at(LIVE, 50), migration, latch(scope, LatchKind.TRIP))
    where = Scope.parse(scope)
    refused = violation(lambda: rearm(migration, tripped, where, percent=None, now=LATER - timedelta(seconds=1)))
    assert refused.rule == "cool_down"
    assert "in 1 s" in refused.message
    assert "in 600 s" in violation(lambda: rearm(migration, tripped, where, percent=None, now=NOON)).message
    assert rearm(migration, tripped, where, percent=None, now=LATER)[0].latches == {}
    killed = everywhere(at(LIVE, 50), migration, latch(scope))
    assert rearm(migration, killed, where, percent=None, now=NOON)[0].latches == {}


def test_what_is_not_killed_cannot_be_re_armed_and_the_answer_names_what_can() -> None:
    migration = workspace(Writes.NONE)
    assert violation(lambda: rearm(migration, policy(), SCOPE_ALL, percent=None, now=NOON)).legal is None
    now = policy({}, latch("group:workspace", LatchKind.TRIP), latch("operation:ping"))
    refused = violation(lambda: rearm(migration, now, SCOPE_ALL, percent=None, now=NOON))
    assert (refused.rule, refused.legal) == ("not_killed", "crossfade rearm operation:ping --reason …")


@pytest.mark.parametrize(
    ("stage", "scope", "lossless"),
    [
        (LIVE, "all", True),
        (RAMPDOWN, "all", True),
        (Stage.COMPLETE, "all", False),
        (Stage.COMPLETE, "operation:git.push", False),
        (Stage.COMPLETE, "operation:ping", True),
    ],
)
def test_a_kill_loses_writes_where_old_no_longer_follows(stage: Stage, scope: str, lossless: bool) -> None:
    migration = workspace(Writes.NONE)
    now = policy({**dict.fromkeys(BOUND, at(stage, 100)), "ping": at(OFF)})
    assert kill_is_lossless(migration, now, Scope.parse(scope)) is lossless


@pytest.mark.parametrize(
    ("scope", "exists"),
    [
        ("all", True),
        ("group:workspace", True),
        ("group:ping", False),
        ("group:git.push", False),
        ("operation:ping", True),
        ("operation:workspace", False),
    ],
)
def test_a_scope_names_something_of_the_definition(scope: str, exists: bool) -> None:
    assert scope_exists(workspace(Writes.NONE), Scope.parse(scope)) is exists


@pytest.mark.parametrize("text", ["", "ALL", "all:", "group:", "group", "team:x", ":x", "operation"])
def test_other_texts_are_no_scope(text: str) -> None:
    with pytest.raises(ValueError, match="neither all"):
        Scope.parse(text)


def test_a_scope_reads_back_as_it_is_written() -> None:
    for text in ("all", "group:workspace", "operation:a:b"):
        assert str(Scope.parse(text)) == text


# --- the file ---


def wishes(over: Definition, what: OperationPolicy, **others: OperationPolicy) -> FilePolicy:
    operations = {name: others.get(name.replace(".", "_"), what) for name in over.operations}
    return FilePolicy(operations, {name: GroupPolicy() for name in over.groups})


def test_the_first_policy_is_the_files() -> None:
    migration = workspace(Writes.NONE)
    wished = wishes(migration, at(LIVE, 5), ping=at(OFF))
    first = initial_policy(migration, wished, "born")
    assert (first.migration, first.lineage, first.epoch, first.latches) == ("git", "born", 1, {})
    assert first.operations == wished.operations
    assert first.groups == wished.groups


def test_a_policy_that_knows_all_adopts_nothing() -> None:
    migration = workspace(Writes.NONE)
    first = initial_policy(migration, wishes(migration, at(OFF)), "born")
    assert adopt_new(migration, first, wishes(migration, at(LIVE, 50))) is None


def test_the_file_counts_for_what_is_new_to_the_store() -> None:
    migration = workspace(Writes.SHARED)
    now = replace(everywhere(at(OFF), migration), groups=dict.fromkeys(migration.groups, GroupPolicy()))
    operations = {name: place for name, place in now.operations.items() if name != "git.log"}
    adopted = adopt_new(migration, replace(now, operations=operations), wishes(migration, at(LIVE, 5)))
    assert adopted is not None
    assert adopted.operations == {**operations, "git.log": at(LIVE, 5)}
    assert adopted.epoch == now.epoch


def test_a_new_member_follows_its_group_and_not_the_file() -> None:
    migration = workspace(Writes.NONE)
    now = policy(dict.fromkeys(["git.status", "git.push", "git.commit"], at(LIVE, 50)))
    adopted = adopt_new(migration, now, wishes(migration, at(OFF, mirror=5)))
    assert adopted is not None
    assert adopted.operations["git.log"] == at(LIVE, 50, mirror=5)
    assert adopted.operations["ping"] == at(OFF, mirror=5)


def test_a_new_read_of_a_dual_group_never_leads_it_whatever_the_file_says() -> None:
    migration = workspace(Writes.DUAL)
    now = policy(dict.fromkeys(["git.push", "git.commit"], at(LIVE, 10)))
    adopted = adopt_new(migration, now, wishes(migration, at(LIVE, 50), git_log=at(LIVE, 5)))
    assert adopted is not None
    assert (adopted.operations["git.status"], adopted.operations["git.log"]) == (at(LIVE, 10), at(LIVE, 5))


def test_a_new_group_is_adopted_and_one_that_left_the_file_is_kept() -> None:
    migration = workspace(Writes.NONE)
    pinned = GroupPolicy(deny=frozenset({"k"}))
    gone = replace(everywhere(at(OFF), migration), groups={"gone": GroupPolicy()})
    wished = replace(wishes(migration, at(OFF)), groups={"workspace": pinned, "elsewhere": pinned})
    adopted = adopt_new(migration, gone, wished)
    assert adopted is not None
    assert adopted.groups == {"gone": GroupPolicy(), "workspace": pinned}


def test_differences_are_told_field_by_field() -> None:
    migration = workspace(Writes.SHARED)
    now = policy(
        {**dict.fromkeys(BOUND, at(OFF)), "ping": at(LIVE, 50)},
        groups={"workspace": GroupPolicy(allow=frozenset("ba"))},
    )
    wished = replace(
        wishes(migration, at(OFF), ping=at(LIVE, 5, mirror=1), git_log=at(LIVE)),
        groups={"workspace": GroupPolicy(share(50), deny=frozenset("d"))},
    )
    assert difference(migration, now, wished) == {
        "operation git.log": {"stage": ("off", "live")},
        "operation ping": {"percent": (50, 5), "mirror_percent": (0, 1)},
        "group workspace": {"dual_percent": (0, 50), "allow": (["a", "b"], []), "deny": ([], ["d"])},
    }


def test_applying_a_file_makes_its_policy_current_and_leaves_kills() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(LIVE, 50), migration, latch("all"))
    pinned = {name: GroupPolicy(deny=frozenset({"k"})) for name in migration.groups}
    wished = replace(wishes(migration, at(OFF)), groups=pinned)
    applied = apply_file(migration, now, wished)
    assert set(applied.policy.operations.values()) == {at(OFF)}
    assert applied.policy.groups == pinned
    assert applied.policy.latches == now.latches
    assert applied.role is Role.APPROVER
    assert applied.fields["operation git.push: percent"] == (50, 0)
    assert applied.fields["group workspace: deny"] == ([], ["k"])
    assert apply_file(migration, applied.policy, wished).is_none


def test_applying_pinned_keys_alone_changes_no_operation() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(LIVE, 50), migration)
    pinned = {name: GroupPolicy(allow=frozenset({"k"})) for name in migration.groups}
    applied = apply_file(migration, now, replace(wishes(migration, at(LIVE, 50)), groups=pinned))
    assert applied.policy == replace(now, groups=pinned)


def test_applying_a_file_keeps_the_rules_of_steps_kills_and_order() -> None:
    migration = workspace(Writes.DUAL)
    live, off = wishes(migration, at(LIVE, 5)), everywhere(at(OFF), migration)
    killed = replace(off, latches={SCOPE_ALL: latch("all")})
    assert violation(lambda: apply_file(migration, killed, live)).rule == "killed"
    leading = wishes(migration, at(OFF), git_log=at(LIVE, 5))
    assert violation(lambda: apply_file(migration, off, leading)).rule == "reads_never_lead"
    complete = everywhere(at(Stage.COMPLETE, 100), migration)
    assert violation(lambda: apply_file(migration, complete, live)).rule == "complete_is_final"
    rampdown = everywhere(at(RAMPDOWN, 100), migration)
    assert violation(lambda: apply_file(migration, rampdown, live)).rule == "back_from_live_means_shadow"


def test_a_kill_of_something_else_does_not_hold_up_a_file() -> None:
    migration = workspace(Writes.NONE)
    now = everywhere(at(OFF), migration, latch("operation:ping"))
    applied = apply_file(migration, now, wishes(migration, at(LIVE, 5), ping=at(OFF)))
    assert applied.policy.operations["git.push"] == at(LIVE, 5)


# --- what always holds ---

DEFINITIONS = [
    workspace(Writes.NONE),
    workspace(Writes.DUAL),
    workspace(Writes.DUAL, independent=True),
    workspace(Writes.SHARED),
    definition([operation("r", READ, group="g"), operation("w", WRITE, group="g")], Writes.DUAL),
]
PERCENTS = st.sampled_from([None, None, PPM_NONE, share(1), share(10), share(50), PPM_ALL])
CHANGES = st.builds(
    Change,
    stage=st.sampled_from([None, None, None, *Stage, OFF, LIVE, LIVE]),
    percent=PERCENTS,
    mirror=st.sampled_from([None, share(5)]),
    skip=st.booleans(),
)


@st.composite
def acts(draw: st.DrawFn, over: Definition) -> Callable[[Policy], Policy]:
    """Something that an operator, a detector or a file does."""
    names = [*over.operations, *(name for name, group in over.groups.items() if not group.implicit)]
    kind = draw(st.sampled_from(["change", "change", "change", "kill", "rearm", "file"]))
    scopes = [SCOPE_ALL, *(Scope(ScopeKind.OPERATION, name) for name in over.operations)]
    match kind:
        case "change":
            name, change = draw(st.sampled_from(names)), draw(CHANGES)
            act: Callable[..., Changed] = change_operation if name in over.operations else change_group
            return lambda now: act(over, now, name, change).policy
        case "kill":
            pulled = latch(draw(st.sampled_from(scopes)), draw(st.sampled_from(LatchKind)))
            return lambda now: replace(now, latches={**now.latches, pulled.scope: pulled})
        case "rearm":
            scope, percent = draw(st.sampled_from(scopes)), draw(PERCENTS)
            return lambda now: rearm(over, now, scope, percent=percent, now=LATER)[0]
        case _:
            place = draw(st.sampled_from([at(OFF), at(LIVE), at(LIVE, 10), at(LIVE, 100)]))
            return lambda now: apply_file(over, now, wishes(over, place)).policy


def assert_is_sound(over: Definition, now: Policy) -> None:
    assert settled_policies(over, now) == {name: now.operations[name] for name in over.operations}
    for name, place in now.operations.items():
        if rank(place.stage) < rank(LIVE):
            assert place.percent == PPM_NONE, name
        elif place.stage is not LIVE:
            assert place.percent == PPM_ALL, name
        assert place.mirror == PPM_NONE or over.operations[name].op_class is OperationClass.READ
    for group in over.groups.values():
        bound = [now.operations[name] for name in group.operations if is_bound(group, over.operations[name])]
        assert len({progress(place) for place in bound}) <= 1
        lead = lead_of(over, group, now.operations)
        assert lead is None or all(progress(now.operations[name]) <= progress(lead) for name in group.operations)


@given(st.data(), st.sampled_from(DEFINITIONS))
def test_any_sequence_of_acts_keeps_the_rules_and_every_refusal_names_a_command_that_is_legal(
    data: st.DataObject, over: Definition
) -> None:
    now = everywhere(at(OFF), over)
    for _ in range(data.draw(st.integers(1, 8))):
        act = data.draw(acts(over))
        try:
            now = act(now)
        except RuleViolation as refused:
            if refused.legal is not None:
                assert_is_sound(over, obey(over, now, refused.legal))
        assert_is_sound(over, now)


@given(st.sampled_from(DEFINITIONS), st.sampled_from(Stage), st.data())
def test_a_refusal_from_any_stage_names_a_command_that_is_legal(
    over: Definition, stage: Stage, data: st.DataObject
) -> None:
    percent = {LIVE: 50, RAMPDOWN: 100, Stage.COMPLETE: 100}.get(stage, 0)
    kills = [
        latch(scope)
        for scope in data.draw(
            st.lists(st.sampled_from(["all", *map("operation:{}".format, over.operations)]), max_size=2)
        )
    ]
    now = everywhere(at(stage, percent), over, *kills)
    try:
        data.draw(acts(over))(now)
    except RuleViolation as refused:
        if refused.legal is not None:
            obey(over, now, refused.legal)


# --- while a detector holds ----------------------------------------------------------------------------------------


def moved_while(holds: dict[str, str], change: Change, *, skip: bool = False) -> str | None:
    over = definition([operation("a", READ, group="store"), operation("b", READ, group="store")], Writes.SHARED)
    before = policy({"a": at(LIVE, 25), "b": at(LIVE, 25)})
    return check_holds(over, before, change_operation(over, before, "a", change).policy, holds, skip=skip)


@pytest.mark.parametrize("holding", ["a", POOLED])
def test_nothing_more_goes_to_new_while_a_detector_holds(holding: str) -> None:
    refused = violation(lambda: moved_while({holding: "errors"}, Change(percent=share(50))))
    assert refused.rule == "detector_hold"
    assert refused.legal == "crossfade share a 50 --skip --reason …"
    assert moved_while({holding: "errors"}, Change(percent=share(50)), skip=True) == "a: errors"


@pytest.mark.parametrize("change", [Change(percent=share(10)), Change(stage=OFF), Change(mirror=share(50))])
def test_less_may_always_go_to_new_and_copies_too(change: Change) -> None:
    assert moved_while({"a": "errors"}, change) is None


def test_a_detector_that_holds_elsewhere_keeps_nobody() -> None:
    assert moved_while({"b": "errors"}, Change(percent=share(50))) is None
