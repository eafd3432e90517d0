"""Every target is told in order, at least once, and one that hangs delays nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.core.feed_status import FeedState
from gateway.core.notice import Notice, NoticeKind, NoticeTarget, TargetKind
from gateway.notify.delivery import NotDeliveredError
from gateway.notify.outbox import GIVE_UP_S, STALE_AFTER_S, Outbox, UnreadableError, name_of
from tests.support.waiting import until

ONE = NoticeTarget(TargetKind.COMMAND, argv=("one",))
TWO = NoticeTarget(TargetKind.COMMAND, argv=("two",), kinds=frozenset({NoticeKind.TRIP, NoticeKind.STALE}))


@dataclass
class Audit:
    """An audit in memory, with a place for each target."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    is_away: bool = False
    is_claimed: bool = False

    def act(self, action: str, **more: Any) -> None:
        self.entries.append({"id": f"{len(self.entries) + 1}-0", "action": action, "target": "all", **more})

    async def following(self, target: str) -> list[Mapping[str, Any]]:
        self._check()
        place = self.places.setdefault(target, len(self.entries))
        return list(self.entries[place : place + 2])

    async def passed(self, target: str, entry: str) -> None:
        self._check()
        self.places[target] = int(entry.split("-")[0])

    async def claim(self, target: str) -> bool:
        assert target
        self._check()
        return not self.is_claimed

    async def let_go(self, targets: list[str]) -> None:
        assert all(targets)

    async def evidence(self, name: str) -> Mapping[str, Any] | None:
        return {"id": name}

    def _check(self) -> None:
        if self.is_away:
            raise UnreadableError


@dataclass
class Post:
    """Delivers into a list; fails as it is told."""

    taken: list[tuple[str, Notice]] = field(default_factory=list)
    failing: dict[str, NotDeliveredError] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    attempts: int = 0
    now: float = 0.0

    async def tell(self, target: NoticeTarget, notice: Notice) -> None:
        self.attempts += 1
        if target.argv[0] in self.hanging:
            await asyncio.Event().wait()
        if target.argv[0] in self.failing:
            raise self.failing[target.argv[0]]
        self.taken.append((target.argv[0], notice))

    def told(self, name: str) -> list[str]:
        return [notice.kind.value for target, notice in self.taken if target == name]


@pytest.fixture
def audit() -> Audit:
    return Audit()


@pytest.fixture
def post() -> Post:
    return Post()


@dataclass
class Feed:
    state: FeedState = FeedState.OK


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
async def outbox(audit: Audit, post: Post, feed: Feed) -> AsyncIterator[Outbox]:
    made = Outbox("git", audit, lambda: feed.state, post.tell, lambda: post.now)
    audit.act("kill", reason="long ago")
    made.use([ONE, TWO])
    await until(lambda: len(audit.places) == 2, "each has its place")
    yield made
    await made.aclose()


async def test_each_is_told_what_it_wants_and_nothing_of_the_past(outbox: Outbox, audit: Audit, post: Post) -> None:
    audit.act("kill")
    audit.act("share")
    audit.act("trip", evidence="t1")
    outbox.wake()
    await until(lambda: len(post.taken) == 3)
    assert (post.told("one"), post.told("two")) == (["kill", "trip"], ["trip"])
    assert dict(post.taken[-1][1].evidence or {}) == {"id": "t1"}
    assert outbox.troubles() == []


async def test_one_that_hangs_delays_nobody_else(outbox: Outbox, audit: Audit, post: Post) -> None:
    post.hanging.add("one")
    for _ in range(3):
        audit.act("trip")
    outbox.wake()
    await until(lambda: post.told("two") == ["trip"] * 3)
    assert post.told("one") == []


async def test_what_was_not_taken_is_told_again(outbox: Outbox, audit: Audit, post: Post) -> None:
    post.failing["one"] = NotDeliveredError("it answered 503")
    audit.act("kill")
    outbox.wake()
    await until(lambda: bool(outbox.troubles()))
    assert "it answered 503" in outbox.troubles()[0]
    post.failing.clear()
    await until(lambda: post.told("one") == ["kill"])
    await until(lambda: outbox.troubles() == [])
    assert (outbox.results["command", "delivered"], outbox.results["command", "given_up"]) == (1, 0)


@pytest.mark.parametrize("how", ["final", "late"])
async def test_it_gives_up_when_that_is_pointless_and_goes_on(
    outbox: Outbox, audit: Audit, post: Post, how: str
) -> None:
    post.failing["one"] = NotDeliveredError("it answered 404", is_final=how == "final", retry_after_s=0.01)
    audit.act("kill")
    outbox.wake()
    await until(lambda: post.attempts >= 1)
    post.now += GIVE_UP_S + 1
    await until(lambda: outbox.results["command", "given_up"] == 1)
    post.failing.clear()
    audit.act("rearm")
    outbox.wake()
    await until(lambda: post.told("one") == ["rearm"])


async def test_while_redis_is_away_nothing_is_lost(outbox: Outbox, audit: Audit, post: Post, feed: Feed) -> None:
    audit.is_away, feed.state = True, FeedState.STALE
    audit.act("trip")
    outbox.look(0.0)
    outbox.look(STALE_AFTER_S)
    outbox.look(STALE_AFTER_S + 1)
    await until(lambda: post.told("two") == ["stale"], "it is told all the same that Redis is away, once")
    audit.is_away, feed.state = False, FeedState.OK
    outbox.look(STALE_AFTER_S + 2)
    await until(lambda: sorted(post.told("two")) == ["stale", "stale", "trip"])


async def test_a_short_absence_of_redis_wakes_nobody(outbox: Outbox, post: Post, feed: Feed) -> None:
    feed.state = FeedState.STALE
    outbox.look(0.0)
    feed.state = FeedState.OK
    outbox.look(STALE_AFTER_S - 1)
    assert post.taken == []


async def test_what_another_process_tells_is_left_to_it(outbox: Outbox, audit: Audit, post: Post) -> None:
    audit.is_claimed = True
    audit.act("kill")
    outbox.wake()
    audit.is_claimed = False
    outbox.wake()
    await until(lambda: post.told("one") == ["kill"])


async def test_another_file_another_list(outbox: Outbox, audit: Audit, post: Post) -> None:
    outbox.use([TWO])
    audit.act("trip")
    outbox.wake()
    await until(lambda: post.told("two") == ["trip"])
    assert post.told("one") == []


def test_a_place_is_kept_when_only_its_events_change() -> None:
    assert name_of(ONE) == name_of(NoticeTarget(TargetKind.COMMAND, argv=("one",), kinds=frozenset()))
    assert name_of(ONE) != name_of(TWO)
