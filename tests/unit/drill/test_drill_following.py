"""A worker that follows an order: what it lays to the drill, and when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from gateway.core.drill import PREFIX, DrillOrder, Fault, WorkerNote
from gateway.core.model import Ppm
from gateway.drill.following import DrillFollower


@dataclass
class FakeClock:
    """Seconds that stand still until a test moves them."""

    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Standing:
    """An order, and what a worker said."""

    order_: DrillOrder | None = None
    can_ask: bool = True
    notes: list[WorkerNote] = field(default_factory=list)

    async def order(self) -> tuple[bool, DrillOrder | None]:
        return self.can_ask, self.order_ if self.can_ask else None

    async def note(self, _: str, note: WorkerNote) -> None:
        self.notes.append(note)


ORDER = DrillOrder("d1", Fault.ERRORS, "a", Ppm(0), begins_at=110.0, ends_at=120.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def standing() -> Standing:
    return Standing(ORDER)


@pytest.fixture
def follower(standing: Standing, clock: FakeClock) -> DrillFollower:
    return DrillFollower("w", standing, lambda _: (None, None), lambda: None, lambda _: None, clock)


async def test_a_drill_that_only_stands_is_blamed_for_nothing(follower: DrillFollower) -> None:
    await follower.look()
    assert follower.order == ORDER
    assert follower.blamed is None


async def test_it_is_blamed_while_its_fault_is_on_and_a_moment_longer(
    follower: DrillFollower, standing: Standing, clock: FakeClock
) -> None:
    clock.now = 110.0
    await follower.look()
    assert follower.blamed == ORDER
    clock.now = 112.0
    standing.order_ = None
    await follower.look()
    assert follower.active is None
    clock.now = 113.9
    await follower.look()
    assert follower.blamed == ORDER
    clock.now = 114.1
    assert follower.blamed is None


async def test_it_ends_by_the_clock_when_nobody_can_be_asked(
    follower: DrillFollower, standing: Standing, clock: FakeClock
) -> None:
    clock.now = 110.0
    await follower.look()
    standing.can_ask = False
    clock.now = 119.9
    await follower.look()
    assert follower.active == ORDER
    clock.now = 120.0
    await follower.look()
    assert follower.active is None


async def test_the_keys_of_a_drill_are_compared_from_the_beginning_and_others_while_its_fault_is_on(
    follower: DrillFollower, standing: Standing, clock: FakeClock
) -> None:
    standing.order_ = replace(ORDER, fault=Fault.MISMATCH, share=Ppm(1_000_000))
    mine, anybodys = f"{PREFIX}d1-7", "agent-1"
    await follower.look()
    assert follower.compares("a", mine)
    assert not follower.compares("a", anybodys)
    assert not follower.compares("b", mine)
    assert not follower.compares("a", f"{PREFIX}d2-7")
    clock.now = 110.0
    await follower.look()
    assert follower.compares("a", mine)
    assert follower.compares("a", anybodys)
    assert not follower.compares("a", None)
    clock.now = 120.0
    await follower.look()
    assert not follower.compares("a", mine)


async def test_what_a_drill_compares_is_its_own_and_so_is_what_it_has_altered(
    follower: DrillFollower, standing: Standing, clock: FakeClock
) -> None:
    standing.order_ = replace(ORDER, fault=Fault.MISMATCH)
    mine, anybodys = f"{PREFIX}d1-7", "agent-1"
    await follower.look()
    assert follower.rehearses("a", mine)
    assert not follower.rehearses("a", anybodys)
    clock.now = 110.0
    await follower.look()
    assert follower.rehearses("a", anybodys)
    assert not follower.rehearses("b", anybodys)
    standing.order_ = None
    clock.now = 112.0
    await follower.look()
    # Some of what was altered is still on its way.
    assert follower.rehearses("a", anybodys)
    clock.now = 114.1
    assert not follower.rehearses("a", anybodys)
    assert follower.rehearses("a", mine)


async def test_no_other_fault_compares(follower: DrillFollower, clock: FakeClock) -> None:
    clock.now = 110.0
    await follower.look()
    assert follower.active == ORDER
    assert not follower.compares("a", f"{PREFIX}d1-7")
