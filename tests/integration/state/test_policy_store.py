"""The policy in Redis changes atomically, or not at all."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from redis.exceptions import RedisError

from gateway.core.model import SCOPE_ALL, Policy, Scope, ScopeKind
from gateway.errors import PolicyAbsentError, StaleEpochError
from gateway.state.codec import CodecError
from tests.integration.state.scene import Scene, entry, latch, policy

GROUP = Scope(ScopeKind.GROUP, "workspace")


async def stored(scene: Scene) -> Policy:
    found = await scene.store().read()
    assert found is not None
    return found


async def test_an_empty_redis_holds_no_policy(scene: Scene) -> None:
    assert await scene.store().read() is None


async def test_what_was_booted_is_read_back(scene: Scene) -> None:
    assert await scene.store().boot(policy(ppm=123_456), entry())
    assert await stored(scene) == policy(ppm=123_456)


async def test_of_two_first_boots_one_wins(scene: Scene) -> None:
    stores = [scene.store() for _ in range(5)]
    outcomes = await asyncio.gather(*(s.boot(policy(lineage=f"l{i}"), entry()) for i, s in enumerate(stores)))
    assert outcomes.count(True) == 1
    assert (await stored(scene)).lineage == f"l{outcomes.index(True)}"


async def test_a_change_raises_the_epoch_by_one(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(), entry())
    changed = await store.change(policy(), policy(ppm=50_000), entry())
    assert changed == policy(epoch=2, ppm=50_000) == await stored(scene)


async def test_of_racing_changes_exactly_one_wins_and_the_others_learn_the_epoch(scene: Scene) -> None:
    await scene.store().boot(policy(), entry())
    attempts = [scene.store().change(policy(), policy(ppm=1000 * i), entry()) for i in range(1, 9)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    lost = [outcome for outcome in outcomes if isinstance(outcome, StaleEpochError)]
    assert len(lost) == 7
    assert {error.current for error in lost} == {2}
    assert (await stored(scene)).epoch == 2


async def test_a_change_from_another_lineage_is_stale(scene: Scene) -> None:
    await scene.store().boot(policy(), entry())
    with pytest.raises(StaleEpochError):
        await scene.store().change(policy(lineage="other"), policy(lineage="other", ppm=5), entry())


async def test_nothing_can_be_changed_or_killed_where_there_is_no_policy(scene: Scene) -> None:
    with pytest.raises(PolicyAbsentError):
        await scene.store().change(policy(), policy(ppm=5), entry())
    with pytest.raises(PolicyAbsentError):
        await scene.store().kill(latch(), entry())


async def test_twenty_racing_kills_are_one_step_and_one_audit_entry(scene: Scene) -> None:
    await scene.store().boot(policy(), entry())
    stores = [scene.store() for _ in range(20)]
    epochs = await asyncio.gather(*(store.kill(latch(), entry("kill")) for store in stores))
    assert set(epochs) == {2}
    assert (await stored(scene)).latches == {SCOPE_ALL: latch()}
    items, _ = await scene.store().audit(10)
    assert [item["action"] for item in items] == ["kill", "share"]


async def test_a_kill_that_races_changes_is_never_lost(scene: Scene) -> None:
    await scene.store().boot(policy(), entry())

    async def change_on() -> None:
        store = scene.store()
        for ppm in range(1, 30):
            before = await stored(scene)
            try:
                await store.change(before, replace(policy(ppm=ppm), latches=before.latches), entry())
            except StaleEpochError:
                continue

    await asyncio.gather(change_on(), change_on(), scene.store().kill(latch(GROUP), entry("kill")))
    assert (await stored(scene)).latches == {GROUP: latch(GROUP)}


async def test_a_change_re_arms_exactly_the_latch_that_it_leaves_out(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(), entry())
    await store.kill(latch(), entry())
    await store.kill(latch(GROUP), entry())
    before = await stored(scene)
    await store.change(before, replace(before, latches={GROUP: latch(GROUP)}), entry("rearm"))
    assert (await stored(scene)).latches == {GROUP: latch(GROUP)}


async def test_the_audit_is_newest_first_and_paged(scene: Scene) -> None:
    store = scene.store()
    for number in range(7):
        await store.record(entry(f"a{number}"))
    first, cursor = await store.audit(3)
    second, cursor = await store.audit(3, cursor)
    third, end = await store.audit(3, cursor)
    assert [item["action"] for item in first + second + third] == [f"a{n}" for n in (6, 5, 4, 3, 2, 1, 0)]
    assert end is None


async def test_a_policy_survives_a_killed_redis(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(ppm=7), entry())
    await store.kill(latch(), entry())
    scene.redis.kill()
    scene.redis.start()
    assert await stored(scene) == replace(policy(epoch=2, ppm=7), latches={SCOPE_ALL: latch()})


@pytest.mark.parametrize("field", ["body", "epoch", "lineage", "kill:all"])
@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", "-3", '{"operations": {"a": {"stage": "gone"}}, "groups": {}}', "\xff"]
)
async def test_a_damaged_policy_is_refused(scene: Scene, field: str, garbage: str) -> None:
    if field == "lineage":
        garbage = ""  # any other text is a lineage
    store = scene.store()
    await store.boot(policy(), entry())
    await store.redis.hset(store.keys.policy, field, garbage)
    with pytest.raises(CodecError):
        await store.read()


async def test_a_write_back_never_goes_back_in_time(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(epoch=5), entry())
    assert not await store.restore(policy(epoch=5, ppm=9), entry())
    assert not await store.restore(policy(epoch=9, lineage="other"), entry())
    assert await store.restore(policy(epoch=6, ppm=9), entry())
    assert await stored(scene) == policy(epoch=6, ppm=9)
    assert await store.restore(policy(epoch=9, lineage="other"), entry(), over="first")


async def test_a_write_back_keeps_kills_that_came_meanwhile(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(epoch=5), entry())
    await store.kill(latch(), entry())
    await store.restore(replace(policy(epoch=9), latches={GROUP: latch(GROUP)}), entry())
    assert set((await stored(scene)).latches) == {SCOPE_ALL, GROUP}


async def test_a_full_redis_changes_nothing_half_way(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(), entry())
    await store.redis.config_set("maxmemory", 1)
    with pytest.raises(RedisError):
        await store.change(policy(), policy(ppm=5), entry())
    with pytest.raises(RedisError):
        await store.kill(latch(), entry("kill"))
    assert await stored(scene) == policy()


async def test_of_racing_trips_the_record_of_the_one_that_latched_is_kept(scene: Scene) -> None:
    await scene.store().boot(policy(), entry())
    trips = [replace(latch(), evidence=f"t{number}") for number in range(5)]
    await asyncio.gather(*(scene.store().kill(trip, entry("trip"), f'{{"id": "{trip.evidence}"}}') for trip in trips))
    (record,) = await scene.store().trips()
    assert record["id"] == (await stored(scene)).latches[SCOPE_ALL].evidence


async def test_a_record_comes_with_its_latch_though_a_write_back_brought_that_first(scene: Scene) -> None:
    store, trip = scene.store(), replace(latch(), evidence="t1")
    await store.boot(replace(policy(), latches={}), entry())
    await store.kill(trip, entry("trip"))
    assert await store.trips() == []
    for _ in range(2):
        # Twice, as after an answer that was lost.
        await store.kill(trip, entry("trip"), '{"id": "t1"}')
    await store.kill(replace(trip, evidence="t2"), entry("trip"), '{"id": "t2"}')
    assert [record["id"] for record in await store.trips()] == ["t1"]


async def test_a_record_holds_what_other_workers_saw(scene: Scene) -> None:
    store = scene.store()
    await store.boot(policy(), entry())
    record = {"id": "t1", "error_kinds": [{"kind": "status 500", "n": 1}], "failed": ["a"], "slowest": []}
    await store.kill(replace(latch(), evidence="t1"), entry("trip"), json.dumps(record))
    await store.add_part("t1", "gateway-1", json.dumps(record | {"failed": ["b"]}))
    await store.add_part("t1", "gateway-2", "{}")
    (found,) = await store.trips()
    assert (found["error_kinds"], found["failed"]) == ([{"kind": "status 500", "n": 2}], ["a", "b"])


async def test_what_changed_nothing_is_told_once_and_damaged_records_hide_no_others(scene: Scene) -> None:
    store = scene.store()
    for number in range(3):
        await scene.store().tell(entry("trip_disarmed"), f'{{"id": "t{number}"}}')
    await store.redis.lpush(store.keys.trips, "{", "[]", "7")
    assert [record["id"] for record in await store.trips()] == ["t0"]
    assert [item["action"] for item in (await store.audit(10))[0]] == ["trip_disarmed"]
