"""New is slow only if old is not slow at the same time, whoever leaves and whatever hangs meanwhile."""

from __future__ import annotations

import pytest

from gateway.core.detect.guard import POOLED
from gateway.core.model import Side
from tests.unit.guard.scene import Board, HandClock, Pace, Traffic, World, world

WARM_S = 100
PACES = [Pace(12, 0.05), Pace(50, 0.2), Pace(50, 0.05, 0.5)]


async def warmed(pace: Pace, seed: int) -> tuple[World, Traffic]:
    found = world("a", "b", percent=50)
    traffic = Traffic(found, pace, seed)
    assert await traffic.run(WARM_S) is None
    assert found.state()[0] == "armed"
    return found, traffic


@pytest.mark.parametrize("pace", PACES, ids=str)
@pytest.mark.parametrize("factor", [3, 10])
async def test_a_slowdown_of_both_sides_takes_nothing_out(pace: Pace, factor: int) -> None:
    for seed in range(3):
        _, traffic = await warmed(pace, seed)
        traffic.factor = dict.fromkeys(Side, factor)
        assert await traffic.run(60) is None, f"seed {seed}"


@pytest.mark.parametrize("pace", PACES, ids=str)
async def test_slowness_of_new_alone_takes_it_out(pace: Pace) -> None:
    found, traffic = await warmed(pace, 1)
    traffic.factor[Side.NEW] = 5
    after_s = await traffic.run(60)
    assert after_s is not None
    assert found.signals == ["operation:a: latency"]


async def test_what_hangs_on_new_alone_takes_it_out_before_it_ends() -> None:
    found, traffic = await warmed(Pace(50, 0.05), 1)
    traffic.factor[Side.NEW] = 10_000
    after_s = await traffic.run(60)
    assert after_s is not None
    assert after_s < 3
    assert found.signals == ["operation:a: latency"]


async def test_what_hangs_on_both_sides_is_nobodys_slowness() -> None:
    found, traffic = await warmed(Pace(50, 0.05), 1)
    traffic.factor = dict.fromkeys(Side, 10_000)
    # In the end nothing at all comes from new: that is silence, which needs no old.
    await traffic.run(4)
    assert found.causes == []


async def pair(seconds: float) -> tuple[World, World, Traffic, Traffic]:
    clock, board = HandClock(), Board()
    one = world("a", clock=clock, board=board, process="w0:1")
    other = world("a", clock=clock, board=board, process="w1:1")
    load = Traffic(one, Pace(24, 0.05), 1), Traffic(other, Pace(24, 0.05), 2)
    for _ in range(int(seconds * 4)):
        await together(one, other, *load)
    return one, other, *load


async def together(one: World, other: World, *load: Traffic) -> None:
    clock = one.clock
    for traffic in load:
        traffic.advance(clock.now + 0.25)
    clock.now += 0.25
    await one.evaluator.tick()
    await other.evaluator.tick()


@pytest.mark.parametrize("what", ["leaves", "redis goes away"])
async def test_a_worker_that_is_lost_during_a_common_slowdown_makes_no_baseline_vanish(what: str) -> None:
    one, other, here, there = await pair(60)
    here.factor = there.factor = dict.fromkeys(Side, 10.0)
    for _ in range(2):
        await together(one, other, here, there)
    if what == "leaves":
        await one.exchange.forget(["w0:1"])
        one = other
        here = there
    else:
        one.exchange.is_up = other.exchange.is_up = False
    for _ in range(16):
        await together(one, other, *{id(t): t for t in (here, there)}.values())
    assert (one.causes, other.causes) == ([], [])


async def test_an_operation_apart_keeps_its_limit_and_all_are_held_against_their_own() -> None:
    """A slow operation that new answers more of than old is no slowness of all."""
    found = world("quick", "slow")
    for _ in range(4 * WARM_S):
        found.answers(Side.OLD, 10, 0.02, name="quick")
        found.answers(Side.NEW, 2, 0.02, name="quick")
        found.answers(Side.OLD, 2, 1.0, name="slow")
        found.answers(Side.NEW, 10, 1.0, name="slow")
        await found.tick()
    assert found.causes == []
    assert found.state(POOLED)[0] == "armed"
    # Both sides of the slow one get slower: new has most of it.
    for _ in range(80):
        found.answers(Side.OLD, 10, 0.02, name="quick")
        found.answers(Side.NEW, 2, 0.02, name="quick")
        found.answers(Side.OLD, 2, 4.0, name="slow")
        found.answers(Side.NEW, 10, 4.0, name="slow")
        await found.tick()
    assert found.causes == []


async def test_slowness_that_is_too_thin_in_each_shows_in_all_together() -> None:
    names = [f"op{number}" for number in range(12)]
    found = world(*names)
    for _ in range(4 * 60):
        for name in names:
            found.answers(Side.OLD, 1, 0.02, name=name)
            found.answers(Side.NEW, 1, 0.02, name=name)
        await found.tick()
    for number in range(200):
        for name in names:
            found.answers(Side.OLD, 1, 0.02, name=name)
        found.answers(Side.NEW, 1, 0.2, name=names[number % 12])
        await found.tick()
        if found.causes:
            break
    assert found.signals == ["all: latency"]
