"""Who answers a request, decided anew when the policy changes, and whether old may answer in place of new."""

from __future__ import annotations

import pytest

from gateway.core.model import ErrorCode, Side, Stage, Writes
from gateway.core.refusal import Refusal
from gateway.edge.deciding import Deciding
from tests.unit.core.migrations import at
from tests.unit.edge.scene import Source, arrival, plane, snapshot


def test_without_a_policy_it_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        Deciding(plane(None), arrival()).decide()
    assert refusal.value.code is ErrorCode.POLICY_UNAVAILABLE


def test_it_holds_until_a_policy_wants_another_side() -> None:
    source = Source(snapshot())
    world = plane(None)
    world.source = source
    on = Deciding(world, arrival())
    assert on.decide() is None
    assert (on.side, on.is_outdated, on.holds()) == (Side.NEW, False, True)
    source.current = snapshot()
    assert on.is_outdated
    assert on.holds()
    source.current = snapshot(shares=at(Stage.OFF))
    assert not on.holds()
    assert on.side is Side.OLD


def test_what_new_has_failed_is_not_asked_of_it_again() -> None:
    on = Deciding(plane(snapshot()), arrival())
    on.decide()
    assert on.has_safety_net
    on.fall_back()
    on.decide_again()
    assert on.side is Side.OLD
    assert not on.has_safety_net


@pytest.mark.parametrize(
    ("writes", "stage", "target", "has_net"),
    [
        (Writes.SHARED, Stage.LIVE, b"/v1/git/status", True),
        (Writes.SHARED, Stage.LIVE, b"/v1/git/push", False),
        (Writes.SHARED, Stage.LIVE, b"/nowhere", False),
        (Writes.SHARED, Stage.COMPLETE, b"/v1/git/status", False),
        (Writes.NONE, Stage.LIVE, b"/v1/git/status", False),
    ],
)
def test_old_may_answer_a_read_over_one_store(writes: Writes, stage: Stage, target: bytes, has_net: bool) -> None:
    on = Deciding(plane(snapshot(writes, at(stage, 100))), arrival(target))
    on.decide()
    assert on.has_safety_net == has_net
