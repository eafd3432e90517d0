from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.model import (
    PPM_ALL,
    SCOPE_ALL,
    Definition,
    GroupPolicy,
    OperationPolicy,
    Ppm,
    Scope,
    Stage,
    Writes,
)
from gateway.core.snapshot import (
    SnapshotOrigin,
    compile_snapshot,
    covers,
    effective_scope,
    settled_policies,
)
from gateway.core.stages import Route
from tests.unit.core.migrations import READ, WRITE, at, definition, everywhere, latch, operation, policy, workspace

BOUND = ["git.status", "git.log", "git.push", "git.commit"]


def scope(text: str) -> Scope:
    return Scope.parse(text)


@pytest.mark.parametrize(
    ("writes", "independent", "asked", "effective"),
    [
        (Writes.NONE, False, "operation:git.push", "group:workspace"),
        (Writes.NONE, False, "operation:git.status", "group:workspace"),
        (Writes.DUAL, False, "operation:git.push", "group:workspace"),
        (Writes.DUAL, False, "operation:git.status", "operation:git.status"),
        (Writes.DUAL, True, "operation:git.push", "operation:git.push"),
        (Writes.SHARED, False, "operation:git.push", "operation:git.push"),
        (Writes.NONE, False, "operation:ping", "operation:ping"),
        (Writes.NONE, False, "operation:unknown", "operation:unknown"),
        (Writes.NONE, False, "group:workspace", "group:workspace"),
        (Writes.NONE, False, "all", "all"),
    ],
)
def test_a_kill_of_an_operation_widens_to_the_group_that_it_moves_with(
    writes: Writes, independent: bool, asked: str, effective: str
) -> None:
    migration = workspace(writes, independent=independent)
    assert str(effective_scope(migration, scope(asked))) == effective


@pytest.mark.parametrize(
    ("writes", "killed", "covered"),
    [
        (Writes.NONE, "all", {*BOUND, "ping"}),
        (Writes.NONE, "group:workspace", set(BOUND)),
        (Writes.NONE, "operation:git.log", set(BOUND)),
        (Writes.DUAL, "operation:git.log", {"git.log"}),
        (Writes.DUAL, "operation:git.push", set(BOUND)),
        (Writes.SHARED, "operation:git.push", {"git.push"}),
        (Writes.SHARED, "operation:ping", {"ping"}),
        (Writes.SHARED, "group:nothing", set()),
    ],
)
def test_a_kill_covers_what_its_effective_scope_names(writes: Writes, killed: str, covered: set[str]) -> None:
    migration = workspace(writes)
    found = {name for name, op in migration.operations.items() if covers(migration, scope(killed), op)}
    assert found == covered
    plans = compile_snapshot(migration, everywhere(at(Stage.LIVE, 50), migration, latch(killed))).plans
    assert {name for name, plan in plans.items() if plan.latch is not None} == covered
    assert {plan.effective for name, plan in plans.items() if name in covered} <= {0}
    assert {plan.percent for plan in plans.values()} == {500_000}


def test_the_widest_kill_is_the_one_that_is_told() -> None:
    migration = workspace(Writes.SHARED)
    scopes = ["operation:git.push", "group:workspace", "all"]
    for count, told in ((1, "operation:git.push"), (2, "group:workspace"), (3, "all")):
        now = policy({}, *map(latch, scopes[:count]))
        plan = compile_snapshot(migration, now).plans["git.push"]
        assert plan.latch == latch(told)
        assert str(plan.killed_at) == told


def test_a_kill_that_widened_is_told_with_its_effective_scope() -> None:
    migration = workspace(Writes.NONE)
    plan = compile_snapshot(migration, policy({}, latch("operation:git.push"))).plans["git.log"]
    assert plan.latch == latch("operation:git.push")
    assert str(plan.killed_at) == "group:workspace"


def test_kills_from_outside_the_policy_count_and_the_policys_own_account_wins() -> None:
    migration = workspace(Writes.NONE)
    outside = {SCOPE_ALL: replace(latch(), by="kill-file")}
    alone = compile_snapshot(migration, policy(), external=outside)
    assert alone.plans["ping"].latch == outside[SCOPE_ALL]
    assert alone.policy.latches == {}
    both = compile_snapshot(migration, policy({}, latch()), external=outside)
    assert both.latches == {SCOPE_ALL: latch()}


@pytest.mark.parametrize(
    ("stage", "percent", "effective", "route"),
    [
        (Stage.OFF, 50, 0, Route.OLD),
        (Stage.SHADOW, 50, 0, Route.OLD),
        (Stage.LIVE, 50, 500_000, Route.COHORT),
        (Stage.RAMPDOWN, 100, PPM_ALL, Route.NEW),
        (Stage.COMPLETE, 100, PPM_ALL, Route.NEW),
    ],
)
def test_a_plan_has_the_share_in_force_beside_the_stored_one(
    stage: Stage, percent: float, effective: int, route: Route
) -> None:
    migration = workspace(Writes.NONE)
    plan = compile_snapshot(migration, everywhere(at(stage, percent), migration)).plans["git.push"]
    assert (plan.percent, plan.effective, plan.route) == (percent * 10_000, effective, route)
    assert plan.limit == (effective << 64) // 1_000_000


@pytest.mark.parametrize(
    ("stage", "writes", "guards"),
    [
        (Stage.SHADOW, Writes.DUAL, False),
        (Stage.LIVE, Writes.DUAL, True),
        (Stage.COMPLETE, Writes.DUAL, True),
        (Stage.LIVE, Writes.NONE, False),
        (Stage.LIVE, Writes.SHARED, False),
    ],
)
def test_copied_writes_are_guarded_from_live_on(stage: Stage, writes: Writes, guards: bool) -> None:
    migration = workspace(writes)
    snapshot = compile_snapshot(migration, everywhere(at(stage), migration))
    assert snapshot.guards_dual_writes is guards
    assert snapshot.plans["git.push"].must_have_key is guards
    assert not snapshot.plans["git.status"].must_have_key


def test_a_snapshot_tells_where_it_came_from_and_what_it_needs_at_the_edge() -> None:
    migration = workspace(Writes.NONE)
    snapshot = compile_snapshot(migration, policy(epoch=12), stale=True, origin=SnapshotOrigin.DISK)
    assert (snapshot.epoch, snapshot.stale, snapshot.origin) == (12, True, SnapshotOrigin.DISK)
    assert snapshot.pseudonym == b"crossfade-git"
    assert snapshot.guarded_headers == {b"x-agent-id", b"x-task-id"}
    assert compile_snapshot(migration, policy(), router=snapshot.router).router is snapshot.router


def test_an_mcp_message_may_be_as_large_as_the_largest_tool_call() -> None:
    small = replace(operation("a", READ, mcp="a"), body_limit_bytes=10)
    large = replace(operation("b", READ, mcp="b"), body_limit_bytes=999)
    rest_only = replace(operation("c", READ, "GET /c"), body_limit_bytes=10**9)
    assert compile_snapshot(definition([small, large, rest_only]), policy()).mcp_body_limit_bytes == 999
    assert compile_snapshot(definition([rest_only]), policy()).mcp_body_limit_bytes == 4 << 20


# --- stored policies that no longer fit the definition ---


def settled(over: Definition, **places: OperationPolicy) -> dict[str, OperationPolicy]:
    return settled_policies(over, policy({name.replace("_", "."): place for name, place in places.items()}))


def test_what_the_policy_does_not_know_is_off_or_follows_its_group() -> None:
    assert settled(workspace(Writes.NONE), ping=at(Stage.LIVE, 5))["git.push"] == at(Stage.OFF)
    assert settled(workspace(Writes.NONE), git_log=at(Stage.LIVE, 5))["git.push"] == at(Stage.LIVE, 5)
    assert settled(workspace(Writes.SHARED), git_log=at(Stage.LIVE, 5))["git.push"] == at(Stage.OFF)
    assert settled(workspace(Writes.DUAL), git_commit=at(Stage.LIVE, 5))["git.push"] == at(Stage.LIVE, 5)


def test_bound_operations_that_disagree_take_the_safest_of_their_values_and_keep_their_mirrors() -> None:
    places = settled(
        workspace(Writes.NONE),
        git_status=at(Stage.LIVE, 50, mirror=5),
        git_log=at(Stage.LIVE, 5),
        git_push=at(Stage.LIVE, 10),
    )
    assert places["git.status"] == at(Stage.LIVE, 5, mirror=5)
    assert {places[name] for name in BOUND if name != "git.status"} == {at(Stage.LIVE, 5)}


def test_reads_that_would_lead_a_dual_group_are_held_back_to_its_writes() -> None:
    places = settled(
        workspace(Writes.DUAL),
        git_status=at(Stage.LIVE, 50, mirror=5),
        git_log=at(Stage.LIVE, 5),
        git_push=at(Stage.LIVE, 10),
        git_commit=at(Stage.LIVE, 20),
    )
    assert places["git.status"] == at(Stage.LIVE, 10, mirror=5)
    assert places["git.log"] == at(Stage.LIVE, 5)
    assert places["git.push"] == places["git.commit"] == at(Stage.LIVE, 10)


def test_in_independent_and_shared_groups_everybody_keeps_a_place_of_his_own() -> None:
    for migration in (workspace(Writes.SHARED), workspace(Writes.DUAL, independent=True)):
        stored = {name: at(Stage.LIVE, share) for share, name in enumerate(migration.operations)}
        assert settled_policies(migration, policy(stored)) == stored


def test_a_dual_group_of_reads_alone_has_nothing_to_wait_for() -> None:
    migration = definition([operation("r", READ, group="g"), operation("s", READ, group="g")], Writes.DUAL)
    assert settled(migration, r=at(Stage.LIVE, 5))["r"] == at(Stage.LIVE, 5)


def test_operations_that_left_the_definition_are_left_alone() -> None:
    migration = definition([operation("w", WRITE)])
    assert settled(migration, gone=at(Stage.LIVE, 5)) == {"w": at(Stage.OFF)}


def test_pinned_keys_of_a_group_are_those_of_all_its_operations() -> None:
    migration = workspace(Writes.NONE)
    pins = GroupPolicy(Ppm(0), frozenset("a"), frozenset("d"))
    plans = compile_snapshot(migration, policy(groups={"workspace": pins})).plans
    assert {(plans[name].allow, plans[name].deny) for name in BOUND} == {(pins.allow, pins.deny)}
    assert (plans["ping"].allow, plans["ping"].deny) == (frozenset(), frozenset())
