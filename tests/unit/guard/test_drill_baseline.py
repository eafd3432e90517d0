"""What a drill asks of old says nothing of how fast it is for clients."""

from __future__ import annotations

import pytest

from gateway.core.model import Side
from gateway.core.outcome import Outcome
from tests.unit.guard.scene import world


async def limit_s(*answers: tuple[int, float, bool]) -> float:
    """What is too slow for an operation after so many answers of old, that took so long, to a drill or not."""
    found = world("a")
    for times, seconds, is_rehearsal in answers:
        for _ in range(times):
            found.counters.answered("a", Side.OLD, Outcome.OK, seconds, is_rehearsal=is_rehearsal)
    await found.ticks(4 * 12)
    limit = found.evaluator.pace("a")[1]
    assert limit is not None
    return limit


async def test_its_fast_answers_make_no_client_slow() -> None:
    assert await limit_s((200, 0.2, False), (5000, 0.001, True)) == pytest.approx(0.4, rel=0.05)


async def test_they_stand_in_where_there_is_nothing_else() -> None:
    assert await limit_s((20, 0.2, False), (5000, 0.001, True)) == pytest.approx(0.01)
