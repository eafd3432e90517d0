"""Whatever replicas do to one policy, in whatever order: a model of it, and the real Redis, agree after every step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.core.kills import TRIP_COOL_DOWN, rearm
from gateway.core.model import SCOPE_ALL, Epoch, Latch, LatchKind, OperationPolicy, Policy, Ppm, Scope, ScopeKind, Stage
from gateway.core.rules import RuleViolation
from gateway.core.unite import unite
from gateway.errors import PolicyAbsentError, StaleEpochError
from gateway.state.connect import REDIS_ERRORS, RedisClient, connect
from gateway.state.policy_store import PolicyStore
from tests.integration.state.scene import OPERATIONS, definition, entry, policy
from tests.support.redis_process import RedisProcess, running_redis

T = TypeVar("T")
REPLICAS: Final = 3
BEGUN: Final = datetime(2026, 1, 2, tzinfo=UTC)
SCOPES: Final = (SCOPE_ALL, Scope(ScopeKind.GROUP, "workspace"), Scope(ScopeKind.OPERATION, "git.push"))

replicas = st.integers(0, REPLICAS - 1)
scopes = st.sampled_from(SCOPES)
shares = st.integers(0, 1_000_000).map(Ppm)


class Wire:
    """A socket in front of Redis that can lose an answer: the command was carried out, and nobody is told."""

    def __init__(self, behind: Path, path: Path) -> None:
        self.url = f"unix://{path}"
        self.loses_next = False
        self._behind, self._path = behind, path
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def aclose(self) -> None:
        assert self._server is not None
        for writer in tuple(self._open):
            writer.close()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._behind)
        self._open |= {writer, far_writer}

        async def onwards() -> None:
            while data := await reader.read(1 << 16):
                far_writer.write(data)
            far_writer.close()

        asking = asyncio.create_task(onwards())
        try:
            while data := await far_reader.read(1 << 16):
                if self.loses_next:
                    self.loses_next = False
                    break
                writer.write(data)
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            for each in (writer, far_writer):
                each.close()
                self._open.discard(each)


@dataclass
class World:
    """One Redis, replicas with a client each, and one whose answers can be lost."""

    runner: asyncio.Runner
    stores: list[PolicyStore]
    lossy: PolicyStore
    wire: Wire

    def run(self, doing: Awaitable[T]) -> T:
        async def wait() -> T:
            return await doing

        return self.runner.run(wait())


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with running_redis() as process:
        yield process


@pytest.fixture
def world(redis: RedisProcess) -> Iterator[World]:
    async def open_all() -> tuple[Wire, list[RedisClient]]:
        wire = Wire(redis.socket_path, redis.socket_path.with_name("wire.sock"))
        await wire.start()
        return wire, [connect(redis.url if at < REPLICAS else wire.url) for at in range(REPLICAS + 1)]

    async def close_all() -> None:
        for client in clients:
            await client.aclose()
        await wire.aclose()

    with asyncio.Runner() as runner:
        wire, clients = runner.run(open_all())
        *stores, lossy = (PolicyStore(client, "git") for client in clients)
        runner.run(learn_scripts(stores[0]))
        yield World(runner, stores, lossy, wire)
        runner.run(close_all())


async def learn_scripts(store: PolicyStore) -> None:
    """Redis knows them from now on, so that a call that loses its answer was carried out."""
    await store.boot(policy(), entry())
    await store.kill(Latch(SCOPE_ALL, LatchKind.KILL, "first", "ada", BEGUN), entry())
    await store.change(found := cast("Policy", await store.read()), found, entry())


@dataclass
class Replica:
    """What one process knows.

    Attributes:
        view: The policy that it read last; what it changes next is decided by it.
        kills_seen: How many kills had landed when it read it.
        known: The newest policy it ever saw: what it would put back.
        untaken: Kills of its own that it was never told Redis has, with their records.
    """

    view: Policy | None = None
    kills_seen: int = 0
    known: Policy | None = None
    untaken: dict[Scope, tuple[Latch, str]] = field(default_factory=dict)

    def remembers(self) -> Policy | None:
        """As the feed offers it."""
        if self.known is None:
            return None
        untaken = {scope: latch for scope, (latch, _) in self.untaken.items()}
        return replace(self.known, latches={**untaken, **self.known.latches})


@dataclass(frozen=True)
class Copy:
    """Redis as it was, and what was true then: a replica of it that lags."""

    dumps: dict[Any, Any]
    policy: Policy
    trips: tuple[str, ...]


class PolicyModel(RuleBasedStateMachine):
    """The model holds what must be stored; every rule does something to both and compares."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.replicas = [Replica() for _ in range(REPLICAS)]
        self.policy: Policy | None = None
        self.trips: tuple[str, ...] = ()
        self.lost: set[str] = set()
        self.copies: list[Copy] = []
        self.kills = 0
        self.made = 0
        self.lowest = 0
        """Below it the epoch may not fall."""
        self.shown: dict[Scope, Latch] = {}
        self.may_go: set[Scope] = set()

    # --- small steps -----------------------------------------------------------------------------------------------

    def make_latch(self, who: int, scope: Scope, *, is_trip: bool) -> tuple[Latch, str]:
        self.made += 1
        at, name = BEGUN + timedelta(seconds=self.made), f"t{self.made}"
        if not is_trip:
            return Latch(scope, LatchKind.KILL, f"by hand {self.made}", f"ada{who}", at), ""
        latch = Latch(scope, LatchKind.TRIP, f"errors {self.made}", f"detector:{who}", at, name)
        return latch, json.dumps({"id": name, "by": latch.by})

    def killed(self, latch: Latch, record: str) -> None:
        """What a kill does to the model."""
        assert self.policy is not None
        held = self.policy.latches.get(latch.scope)
        if held is None:
            self.kills += 1
            latches = {**self.policy.latches, latch.scope: latch}
            self.policy = replace(self.policy, epoch=Epoch(self.policy.epoch + 1), latches=latches)
        if record and held in (None, latch) and latch.evidence not in self.trips:
            assert latch.evidence is not None
            self.trips = (latch.evidence, *self.trips)

    def changed(self, after: Policy) -> None:
        assert self.policy is not None
        self.may_go |= self.policy.latches.keys() - after.latches.keys()
        self.policy = replace(after, epoch=Epoch(self.policy.epoch + 1))

    async def try_change(self, store: PolicyStore, before: Policy, after: Policy) -> Policy | None:
        """Writes; None where it is told that somebody was faster."""
        try:
            return await store.change(before, after, entry())
        except StaleEpochError as exc:
            stored = exc.current
        except PolicyAbsentError:
            stored = None
        assert stored == (None if self.policy is None else self.policy.epoch)
        return None

    def raised(self, before: Policy, share: Ppm) -> Policy:
        return replace(before, operations=dict.fromkeys(OPERATIONS, OperationPolicy(Stage.LIVE, share)))

    def is_current(self, view: Policy | None) -> bool:
        return self.policy is not None and view is not None and view.epoch == self.policy.epoch

    # --- rules -----------------------------------------------------------------------------------------------------

    @initialize()
    def boots(self) -> None:
        async def boot() -> None:
            await self.world.stores[0].redis.flushall()
            assert await self.world.stores[0].boot(policy(), entry("boot"))

        self.world.run(boot())
        self.policy = policy()
        for who in range(REPLICAS):
            self.reads(who)

    @rule(who=replicas)
    def reads(self, who: int) -> None:
        found = self.world.run(self.world.stores[who].read())
        replica = self.replicas[who]
        replica.view, replica.kills_seen = found, self.kills
        if found is not None and (replica.known is None or found.epoch > replica.known.epoch):
            replica.known = found
            for scope in found.latches.keys() & replica.untaken.keys():
                if not replica.untaken[scope][1]:
                    del replica.untaken[scope]

    @rule(who=replicas, share=shares)
    def changes_what_it_read(self, who: int, share: Ppm) -> None:
        """However long ago that was."""
        replica = self.replicas[who]
        if replica.view is None:
            return
        after = self.raised(replica.view, share)
        written = self.world.run(self.try_change(self.world.stores[who], replica.view, after))
        assert (written is not None) == self.is_current(replica.view)
        if written is not None:
            assert replica.kills_seen == self.kills, "a change that was read before a kill landed after it"
            self.changed(after)
            assert written == self.policy

    @rule(who=replicas, scope=scopes, is_trip=st.booleans())
    def kills_scope(self, who: int, scope: Scope, *, is_trip: bool) -> None:
        latch, record = self.make_latch(who, scope, is_trip=is_trip)
        self.pulls(who, latch, record)

    @rule(who=replicas)
    def says_again_what_nobody_answered(self, who: int) -> None:
        for latch, record in tuple(self.replicas[who].untaken.values()):
            self.pulls(who, latch, record)

    def pulls(self, who: int, latch: Latch, record: str) -> None:
        try:
            epoch = self.world.run(self.world.stores[who].kill(latch, entry(latch.kind), record))
        except PolicyAbsentError:
            assert self.policy is None
            self.replicas[who].untaken.setdefault(latch.scope, (latch, record))
            return
        assert self.policy is not None
        untaken = self.replicas[who].untaken
        if untaken.get(latch.scope) == (latch, record):
            del untaken[latch.scope]
        self.killed(latch, record)
        assert epoch == self.policy.epoch

    @rule(who=replicas, scope=scopes, is_trip=st.booleans())
    def kills_and_hears_nothing(self, who: int, scope: Scope, *, is_trip: bool) -> None:
        if self.policy is None:
            return
        latch, record = self.make_latch(who, scope, is_trip=is_trip)
        self.loses(self.world.lossy.kill(latch, entry(latch.kind), record))
        self.killed(latch, record)
        self.replicas[who].untaken.setdefault(scope, (latch, record))

    @rule(who=replicas, share=shares)
    def changes_hears_nothing_and_tries_again(self, who: int, share: Ppm) -> None:
        replica = self.replicas[who]
        if replica.view is None or not self.is_current(replica.view):
            return
        after = self.raised(replica.view, share)
        self.loses(self.world.lossy.change(replica.view, after, entry()))
        self.changed(after)
        assert self.world.run(self.try_change(self.world.stores[who], replica.view, after)) is None

    def loses(self, call: Awaitable[Any]) -> None:
        async def lose() -> None:
            await self.world.lossy.redis.ping()
            self.world.wire.loses_next = True
            with pytest.raises(REDIS_ERRORS):
                await call

        self.world.run(lose())
        assert not self.world.wire.loses_next

    @rule(scope=scopes, first=replicas, second=replicas)
    def two_trip_at_once(self, scope: Scope, first: int, second: int) -> None:
        if self.policy is None:
            return
        made = [self.make_latch(who, scope, is_trip=True) for who in (first, second)]

        async def race() -> Policy | None:
            stores = self.world.stores[first], self.world.stores[second]
            await asyncio.gather(
                *(store.kill(*(one[0], entry("trip"), one[1])) for store, one in zip(stores, made, strict=True))
            )
            return await self.world.stores[0].read()

        found = self.world.run(race())
        assert found is not None
        # Either may win; then the other changes nothing.
        winner = next((one for one in made if found.latches[scope] == one[0]), made[0])
        self.killed(*winner)

    @rule(who=replicas, killer=replicas, scope=scopes, share=shares)
    def promotes_while_another_kills(self, who: int, killer: int, scope: Scope, share: Ppm) -> None:
        view = self.replicas[who].view
        if self.policy is None or view is None or scope in self.policy.latches:
            return
        (latch, record), after = self.make_latch(killer, scope, is_trip=True), self.raised(view, share)
        was_current = self.is_current(view)

        async def race() -> tuple[Policy | StaleEpochError, Epoch]:
            async def change() -> Policy | StaleEpochError:
                try:
                    return await self.world.stores[who].change(view, after, entry())
                except StaleEpochError as exc:
                    return exc

            killing = self.world.stores[killer].kill(latch, entry("trip"), record)
            return await asyncio.gather(change(), killing)

        written, epoch = self.world.run(race())
        if isinstance(written, Policy):
            assert was_current
            assert written.epoch < epoch, "a change that was read before a kill landed after it"
            self.changed(after)
        self.killed(latch, record)

    @rule(who=replicas, scope=scopes, is_soon=st.booleans())
    def rearms_what_it_read(self, who: int, scope: Scope, *, is_soon: bool) -> None:
        view = self.replicas[who].view
        if view is None:
            return
        latch = view.latches.get(scope)
        now = BEGUN if is_soon else BEGUN + timedelta(days=1)
        refused: str | None = None
        try:
            after, removed = rearm(definition(), view, scope, percent=None, now=now)
        except RuleViolation as violation:
            refused = violation.rule
        cools_down = latch is not None and latch.kind is LatchKind.TRIP and now < latch.at + TRIP_COOL_DOWN
        assert refused == ("not_killed" if latch is None else "cool_down" if cools_down else None)
        if refused is not None:
            return
        stored = None if self.policy is None else self.policy.latches.get(scope)
        written = self.world.run(self.try_change(self.world.stores[who], view, after))
        if written is not None:
            assert stored == removed, "a latch was removed that nobody had looked at"
            self.changed(after)

    # --- Redis forgets ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.policy is not None and len(self.copies) < 3)
    @rule()
    def is_copied(self) -> None:
        async def dump() -> dict[Any, Any]:
            redis = self.world.stores[0].redis
            return {name: await redis.dump(name) for name in await redis.keys("*")}

        assert self.policy is not None
        self.copies.append(Copy(self.world.run(dump()), self.policy, self.trips))

    @precondition(lambda self: self.policy is not None)
    @rule()
    def loses_everything(self) -> None:
        self.world.run(self.world.stores[0].redis.flushall())
        self.forgets(None, ())

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def falls_back_to_a_copy(self, data: st.DataObject) -> None:
        copy = data.draw(st.sampled_from(self.copies))

        async def bring_back() -> None:
            redis = self.world.stores[0].redis
            await redis.flushall()
            for name, content in copy.dumps.items():
                await redis.restore(name, 0, content)

        self.world.run(bring_back())
        self.forgets(copy.policy, copy.trips)

    def forgets(self, stored: Policy | None, trips: tuple[str, ...]) -> None:
        self.lost |= set(self.trips) - set(trips)
        self.policy, self.trips = stored, trips
        self.lowest, self.shown = 0, {}
        for replica in self.replicas:
            # The feed knows that Redis fell back, and refuses changes. The store alone would not: a number of an epoch
            # may come a second time, with another policy.
            replica.view = None

    @rule(at_once=st.integers(1, 2))
    def is_written_back(self, at_once: int) -> None:
        """As the control process does, from what all replicas offer; perhaps by two of them."""
        offered = [found for replica in self.replicas if (found := replica.remembers()) is not None]
        stored = [self.policy] if self.policy is not None else []
        united = unite([*offered, *stored])
        restored = replace(united, epoch=Epoch(united.epoch + 1))

        async def write() -> list[bool]:
            stores = self.world.stores[:at_once]
            return list(await asyncio.gather(*(store.restore(restored, entry("write-back")) for store in stores)))

        assert self.world.run(write()).count(True) == 1
        assert all(restored.epoch > each.epoch for each in (*offered, *stored))
        assert all(each.latches.keys() <= restored.latches.keys() for each in (*offered, *stored))
        self.kills += 1  # kills that others remember have landed now
        self.policy = restored

    @rule(who=replicas)
    def is_written_back_too_late(self, who: int) -> None:
        remembered = self.replicas[who].remembers()
        if remembered is None or self.policy is None or remembered.epoch > self.policy.epoch:
            return
        has_written: bool = self.world.run(self.world.stores[who].restore(remembered, entry("write-back")))
        assert not has_written

    # --- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        async def look() -> tuple[Policy | None, list[dict[str, Any]]]:
            return await self.world.stores[-1].read(), await self.world.stores[-1].trips()

        found, records = self.world.run(look())
        assert found == self.policy
        names = [record["id"] for record in records]
        assert names == list(self.trips)
        assert len(set(names)) == len(names)
        epoch = 0 if found is None else found.epoch
        assert epoch >= self.lowest
        self.lowest = epoch
        latches = {} if found is None else dict(found.latches)
        assert self.shown.keys() - latches.keys() <= self.may_go, "a latch went away without its own re-arm"
        self.shown, self.may_go = latches, set()
        by_name = {record["id"]: record for record in records}
        for latch in latches.values():
            if latch.evidence is None:
                continue
            if latch.evidence in by_name:
                assert by_name[latch.evidence]["by"] == latch.by
            else:
                assert latch.evidence in self.lost or any(
                    held[0] == latch for replica in self.replicas for held in replica.untaken.values()
                ), "the record of a latch is lost, and nobody will tell it again"


def test_no_order_of_events_loses_a_kill_or_lets_a_late_change_win(world: World) -> None:
    short = settings(
        max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(cast("type[PolicyModel]", partial(PolicyModel, world)), settings=short)


def test_a_trip_while_redis_is_empty_keeps_its_record_though_a_write_back_brings_its_latch(world: World) -> None:
    model = PolicyModel(world)
    model.boots()
    model.loses_everything()
    model.kills_scope(0, SCOPE_ALL, is_trip=True)
    model.is_written_back(1)
    model.says_again_what_nobody_answered(0)
    model.redis_holds_what_the_model_says()
    assert model.trips == ("t1",)


def test_a_trip_that_is_said_again_after_its_re_arm_latches_again_with_one_record(world: World) -> None:
    model = PolicyModel(world)
    model.boots()
    model.kills_and_hears_nothing(0, SCOPE_ALL, is_trip=True)
    model.reads(1)
    model.rearms_what_it_read(1, SCOPE_ALL, is_soon=False)
    model.says_again_what_nobody_answered(0)
    model.redis_holds_what_the_model_says()
    assert model.trips == ("t1",)
