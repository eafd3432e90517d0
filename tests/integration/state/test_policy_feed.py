"""A process's view of the policy: quick to follow, safe without Redis."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.feed_status import FeedState
from gateway.core.model import SCOPE_ALL, Policy, Scope, ScopeKind
from gateway.core.snapshot import SnapshotOrigin
from gateway.state.boot import WriteBack, first_boot, restore_by_hand
from gateway.state.feed import PolicyFeed
from gateway.state.snapshot_file import Remembered
from tests.integration.state.scene import Scene, definition, entry, latch, policy
from tests.support.waiting import until, until_async

GROUP = Scope(ScopeKind.GROUP, "workspace")
STATUS = Scope(ScopeKind.OPERATION, "git.status")


def epoch(feed: PolicyFeed) -> int | None:
    return feed.current.epoch if feed.current else None


def killed(feed: PolicyFeed) -> set[Scope]:
    return set(feed.current.latches) if feed.current else set()


async def booted(scene: Scene, ppm: int = 500_000) -> None:
    assert await scene.store().boot(policy(ppm=ppm), entry())


async def rearm(scene: Scene, scope: Scope) -> None:
    store = scene.store()
    before = await store.read()
    assert before is not None
    left = {held: latch for held, latch in before.latches.items() if held != scope}
    await store.change(before, replace(before, latches=left), entry("rearm"))


# --- following -----------------------------------------------------------------------------------------------------


async def test_there_is_no_snapshot_before_there_is_a_policy(scene: Scene) -> None:
    feed = await scene.feed()
    assert feed.current is None
    assert feed.status().state is FeedState.STALE
    await booted(scene)
    await until(lambda: epoch(feed) == 1)
    assert feed.status().state is FeedState.OK


async def test_a_change_reaches_every_feed(scene: Scene) -> None:
    await booted(scene)
    feeds = [await scene.feed(f"gateway-{n}") for n in range(3)]
    await scene.store().change(policy(ppm=500_000), policy(ppm=750_000), entry())
    await until(lambda: [epoch(feed) for feed in feeds] == [2, 2, 2])
    assert {feed.current.plans["git.push"].effective for feed in feeds if feed.current} == {750_000}


async def test_a_change_whose_message_is_lost_is_found_by_the_poll(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    client = scene.client()
    # A user who may do everything but hear: the push is dropped by Redis itself.
    await client.acl_setuser("default", enabled=True, nopass=True, reset_channels=True)
    await client.client_kill_filter(_type="pubsub")
    raw = scene.store()
    await raw.redis.hset(raw.keys.policy, "epoch", "2")
    await until(lambda: epoch(feed) == 2)


async def test_callers_are_told_after_the_snapshot_was_replaced(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    seen: list[int | None] = []
    feed.subscribe(lambda: seen.append(epoch(feed)))
    await scene.store().kill(latch(), entry())
    await until(lambda: 2 in seen)


async def test_a_listener_that_fails_does_not_stop_the_feed(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    feed.subscribe(fail)
    for ppm in (600_000, 700_000, 800_000):
        before = await scene.store().read()
        assert before is not None
        after = await scene.store().change(before, replace(policy(ppm=ppm), epoch=before.epoch), entry())
        await until(lambda after=after: epoch(feed) == after.epoch)  # type: ignore[misc]  # bound early on purpose


async def test_another_definition_is_decided_by_at_once(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    whole = definition()
    group = replace(whole.groups["workspace"], operations=("git.push",))
    push = whole.operations["git.push"]
    feed.replace_definition(replace(whole, groups={"workspace": group}, operations={"git.push": push}))
    assert feed.current is not None
    assert set(feed.current.plans) == {"git.push"}


# --- kills from outside the policy ---------------------------------------------------------------------------------


async def test_a_break_glass_key_of_a_wrong_type_kills_as_well(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed("gateway-0")
    client = scene.client()
    await client.rpush("cf:git:kill:all", "in", "a", "hurry")
    await client.hset(f"cf:git:kill:{STATUS}", "reason", "x")
    await until(lambda: killed(feed) == {SCOPE_ALL, STATUS})


async def test_the_reason_of_a_key_acts_on_no_terminal(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed("gateway-0")
    await scene.client().set("cf:git:kill:all", b"red \x1b[31m \x00 alert\n")
    await until(lambda: killed(feed) == {SCOPE_ALL})
    assert feed.current is not None
    assert feed.current.latches[SCOPE_ALL].reason == "red \ufffd[31m \ufffd alert"


async def test_the_reason_of_the_kill_file_acts_on_no_terminal(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed("gateway-0")
    (scene.data_dir / "KILL").write_bytes(b"all\nred \x1b[31m \x00 alert\n")
    await until(lambda: killed(feed) == {SCOPE_ALL})
    assert feed.current is not None
    assert feed.current.latches[SCOPE_ALL].reason == "red \ufffd[31m \ufffd alert"


@pytest.mark.parametrize("scope", [SCOPE_ALL, GROUP, STATUS], ids=str)
async def test_a_break_glass_key_kills_and_its_removal_does_not_re_arm(scene: Scene, scope: Scope) -> None:
    await booted(scene)
    feeds = [await scene.feed(f"gateway-{n}") for n in range(2)]
    client = scene.client()
    await client.set(f"cf:git:kill:{scope}", "3 a.m.")
    await until(lambda: all(killed(feed) == {scope} for feed in feeds))
    await client.delete(f"cf:git:kill:{scope}")
    await until(lambda: all(not feed.held_break_glass and epoch(feed) == 2 for feed in feeds))
    assert all(killed(feed) == {scope} for feed in feeds)
    stored = await scene.store().read()
    assert stored is not None
    assert (stored.latches[scope].by, stored.latches[scope].reason) == ("redis-key", "3 a.m.")


@pytest.mark.parametrize(
    ("content", "scope"),
    [
        (b"", SCOPE_ALL),
        (b"all\n", SCOPE_ALL),
        (b"group:workspace\nslow pushes\n", GROUP),
        (b"  operation:git.status  ", STATUS),
        (b"operation:gone", SCOPE_ALL),
        (b"please stop", SCOPE_ALL),
        (b"\xff\xfe\x00", SCOPE_ALL),
    ],
)
async def test_the_kill_file_kills_and_its_removal_does_not_re_arm(scene: Scene, content: bytes, scope: Scope) -> None:
    await booted(scene)
    feed = await scene.feed()
    file = scene.data_dir / "KILL"
    file.write_bytes(content)
    await until(lambda: killed(feed) == {scope})
    file.unlink()
    await until(lambda: not feed.held_break_glass and epoch(feed) == 2)
    assert killed(feed) == {scope}


async def test_a_kill_file_that_is_no_file_kills_all(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    (scene.data_dir / "KILL").mkdir()
    await until(lambda: killed(feed) == {SCOPE_ALL})


async def test_the_kill_file_works_without_redis_and_is_stored_when_it_returns(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    scene.redis.kill()
    file = scene.data_dir / "KILL"
    file.write_text("group:workspace")
    await until(lambda: killed(feed) == {GROUP})
    file.unlink()
    await until(lambda: not feed.held_break_glass)
    assert killed(feed) == {GROUP}
    scene.redis.start()
    await until(lambda: epoch(feed) == 2)
    stored = await scene.store().read()
    assert stored is not None
    assert set(stored.latches) == {GROUP}


async def test_a_local_kill_acts_before_redis_is_asked(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    scene.redis.freeze()
    feed.kill_locally(latch(GROUP))
    assert killed(feed) == {GROUP}
    scene.redis.resume()
    await until(lambda: epoch(feed) == 2)


async def test_a_re_armed_scope_stays_armed_where_the_kill_was_local(scene: Scene) -> None:
    await booted(scene)
    feeds = [await scene.feed(f"gateway-{n}") for n in range(3)]
    for feed in feeds:
        feed.kill_locally(latch())
    await until(lambda: all(epoch(feed) == 2 for feed in feeds))
    await rearm(scene, SCOPE_ALL)
    await until(lambda: all(epoch(feed) == 3 for feed in feeds))
    assert all(killed(feed) == set() for feed in feeds)
    await asyncio.gather(*map(read_again, feeds))
    assert [epoch(feed) for feed in feeds] == [3, 3, 3]


async def read_again(feed: PolicyFeed) -> None:
    """Returns after a read of Redis that began after this call."""
    begun = time.monotonic()
    feed.refresh_soon()
    await until(lambda: time.monotonic() - (feed.status().age_s or 1e9) > begun)


async def test_a_scope_whose_break_glass_key_is_still_there_cannot_be_re_armed(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    await scene.client().set("cf:git:kill:all", "hold")
    await until(lambda: epoch(feed) == 2)
    assert feed.held_break_glass == {SCOPE_ALL}
    alive: list[set[Scope]] = []
    feed.subscribe(lambda: alive.append(killed(feed)))
    await rearm(scene, SCOPE_ALL)
    await until(lambda: (epoch(feed) or 0) >= 4)
    assert all(scopes == {SCOPE_ALL} for scopes in alive)


# --- without Redis -------------------------------------------------------------------------------------------------


async def test_a_frozen_redis_makes_the_snapshot_stale_and_blocks_nobody(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed(stale_s=0.5)
    scene.redis.freeze()
    await until(lambda: feed.status().state is FeedState.STALE)
    assert feed.current is not None
    assert feed.current.stale
    scene.redis.resume()
    await until(lambda: feed.status().state is FeedState.OK)
    assert not feed.current.stale


async def test_changes_are_heard_again_after_redis_was_killed_and_restarted(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed(poll_s=600)
    scene.redis.kill()
    scene.redis.start()
    store = scene.store()

    async def heard() -> bool:
        before = await store.read()
        assert before is not None
        after = await store.change(before, before, entry())
        await asyncio.sleep(0.02)
        return (epoch(feed) or 0) >= after.epoch - 1

    await until_async(heard)


async def test_a_start_without_redis_uses_what_the_disk_knows(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    feed.kill_locally(latch(GROUP))
    await until(lambda: epoch(feed) == 2)
    await until(lambda: _on_disk(scene) == 2)
    scene.redis.kill()
    later = await scene.feed("gateway-9")
    assert epoch(later) == 2
    assert killed(later) == {GROUP}
    assert later.status().origin is SnapshotOrigin.DISK
    scene.redis.start()
    await until(lambda: later.status().origin is SnapshotOrigin.REDIS)


def _on_disk(scene: Scene) -> int | None:
    remembered = scene.file().read()
    return remembered.policy.epoch if remembered else None


async def test_a_start_without_redis_and_without_a_file_knows_nothing(scene: Scene) -> None:
    scene.redis.kill()
    assert (await scene.feed()).current is None


async def test_a_damaged_policy_in_redis_changes_nothing_and_is_said(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    store = scene.store()
    body = await store.redis.hget(store.keys.policy, "body")
    await store.redis.hset(store.keys.policy, "body", "{")
    feed.refresh_soon()
    await until(lambda: feed.status().state is FeedState.DEGRADED)
    assert epoch(feed) == 1
    await store.redis.hset(store.keys.policy, "body", body)
    await until(lambda: feed.status().state is FeedState.OK)


async def test_break_glass_works_over_a_damaged_policy(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    store = scene.store()
    await store.redis.hset(store.keys.policy, "body", "{")
    await store.redis.set("cf:git:kill:all", "now")
    await until(lambda: killed(feed) == {SCOPE_ALL})


# --- after a loss --------------------------------------------------------------------------------------------------


async def lost(scene: Scene) -> None:
    scene.redis.forget_everything()


async def test_an_emptied_redis_changes_nothing_and_is_said(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    await lost(scene)
    await until(lambda: feed.status().state is FeedState.DEGRADED)
    assert epoch(feed) == 1


async def test_a_lower_epoch_is_ignored_but_its_kills_are_not(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    await scene.store().change(policy(ppm=500_000), policy(ppm=600_000), entry())
    await until(lambda: epoch(feed) == 2)
    await lost(scene)
    await booted(scene, ppm=100_000)
    await scene.store().redis.hset("cf:git:policy", "epoch", "1")
    await until(lambda: feed.status().state is FeedState.DEGRADED)
    assert feed.current is not None
    assert feed.current.plans["git.push"].effective == 600_000
    await scene.store().kill(latch(GROUP), entry("kill"))
    await until(lambda: killed(feed) == {GROUP})


async def test_of_one_epoch_with_two_contents_the_safer_values_hold(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    store = scene.store()
    await lost(scene)
    await store.boot(replace(policy(ppm=200_000), latches={}), entry())
    await until(lambda: feed.current is not None and feed.current.plans["git.push"].effective == 200_000)
    assert feed.status().state is not FeedState.STALE


async def test_another_lineage_is_not_followed(scene: Scene) -> None:
    await booted(scene)
    feed = await scene.feed()
    await lost(scene)
    await scene.store().boot(policy(epoch=7, ppm=0, lineage="second"), entry())
    await until(lambda: feed.status().state is FeedState.DEGRADED)
    assert epoch(feed) == 1


async def test_control_puts_the_policy_back_once_with_the_kills_of_all(scene: Scene, tmp_path: Path) -> None:
    await booted(scene)
    feeds = [await scene.feed(f"gateway-{n}") for n in range(2)]
    control = await scene.feed("control")
    await scene.store().kill(latch(GROUP), entry())
    await until(lambda: all(epoch(feed) == 2 for feed in (*feeds, control)))
    write_back = asyncio.create_task(WriteBack(control, scene.store()).run())
    try:
        await lost(scene)
        feeds[0].kill_locally(latch(STATUS))
        await until(lambda: all((epoch(feed) or 0) >= 3 for feed in (*feeds, control)))
        await until(lambda: all(killed(feed) == {GROUP, STATUS} for feed in (*feeds, control)))
    finally:
        write_back.cancel()
        await asyncio.gather(write_back, return_exceptions=True)
    restored = await scene.store().read()
    assert restored is not None
    assert restored.lineage == "first"
    assert restored.operations == policy(ppm=500_000).operations
    items, _ = await scene.store().audit(20)
    assert [item["action"] for item in items].count("write-back") == 1


async def test_what_only_the_disk_remembers_is_not_put_back_without_being_told(scene: Scene) -> None:
    await booted(scene)
    first = await scene.feed()
    await until(lambda: _on_disk(scene) == 1)
    await first.aclose()
    scene.feeds.remove(first)
    await lost(scene)
    control = await scene.feed("control")
    assert control.status().origin is SnapshotOrigin.DISK
    write_back = asyncio.create_task(WriteBack(control, scene.store()).run())
    try:
        await read_again(control)
        assert await scene.store().offers() == []
        assert await scene.store().read() is None
        restored = await restore_by_hand(control, scene.store(), entry("restore"))
        await until(lambda: control.status().state is FeedState.OK)
    finally:
        write_back.cancel()
        await asyncio.gather(write_back, return_exceptions=True)
    assert restored.epoch == 2
    assert await scene.store().read() == restored


# --- first boot ----------------------------------------------------------------------------------------------------


def initial() -> Policy:
    return policy()


async def test_the_first_boot_happens_once(scene: Scene) -> None:
    assert await first_boot(scene.store(), scene.file(), initial, entry("boot")) == policy()
    assert await first_boot(scene.store(), scene.file(), initial, entry("boot")) is None


async def test_no_first_boot_where_the_disk_remembers_a_policy(scene: Scene) -> None:
    scene.file().write(Remembered(policy(epoch=9)))
    assert await first_boot(scene.store(), scene.file(), initial, entry("boot")) is None
    assert await scene.store().read() is None


async def test_no_first_boot_where_the_disk_remembers_something_damaged(scene: Scene) -> None:
    scene.file().write(Remembered(policy(epoch=9)))
    content = json.loads(scene.file().path.read_text())
    scene.file().path.write_text(json.dumps({**content, "external": {"all": "{}"}}))
    assert (await scene.feed()).current is None
    assert await first_boot(scene.store(), scene.file(), initial, entry("boot")) is None
