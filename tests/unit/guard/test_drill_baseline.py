"""What a drill asks of old says nothing of how fast it is for clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from gateway.core.model import Side, Writes
from gateway.core.outcome import Outcome
from gateway.guard.evaluator import Evaluator, Heard
from gateway.guard.merging import Histograms, Signals
from gateway.telemetry.counters import RequestCounters
from tests.support.waiting import until
from tests.unit.core.migrations import workspace


class Alone:
    """One worker, that hears itself."""

    def __init__(self) -> None:
        self.seq = 0
        self.told = 0

    async def swap(self, signals: Signals, histograms: Histograms | None) -> Heard:
        self.seq += 1
        self.told += histograms is not None
        return Heard({"w": (self.seq, signals)}, None if histograms is None else {"w": histograms})

    async def forget(self, names: Iterable[str]) -> None:
        del names


@dataclass
class Hasty:
    """A clock that is a second later whenever it is looked at."""

    now: float = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


async def limit_s(*answers: tuple[int, float, bool]) -> float:
    """What is too slow for git.status after so many answers of old, that took so long, to a drill or not."""
    counters, workers = RequestCounters(), Alone()
    counters.answered("git.status", Side.OLD, Outcome.OK, 0.1)
    evaluator = Evaluator(workspace(Writes.NONE), counters, workers, lambda: None, (), lambda _: None, Hasty())
    running = asyncio.create_task(evaluator.run())
    try:
        # What was before is no news: a baseline is made of what comes between two looks.
        await until(lambda: workers.told, "it has looked")
        for times, seconds, is_rehearsal in answers:
            for _ in range(times):
                counters.answered("git.status", Side.OLD, Outcome.OK, seconds, is_rehearsal=is_rehearsal)
        await until(lambda: evaluator.pace("git.status")[1] is not None, "it knows a limit")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    limit = evaluator.pace("git.status")[1]
    assert limit is not None
    return limit


async def test_its_fast_answers_make_no_client_slow() -> None:
    assert await limit_s((200, 0.2, False), (5000, 0.001, True)) == pytest.approx(0.4, rel=0.05)


async def test_they_stand_in_where_there_is_nothing_else() -> None:
    assert await limit_s((20, 0.2, False), (5000, 0.001, True)) == pytest.approx(0.01)
