from __future__ import annotations

import asyncio
from itertools import pairwise

from backends.approach2.pace import Pace
from tests.support.waiting import until


async def test_without_a_rate_so_many_begin_at_once_and_the_next_waits_for_an_end() -> None:
    pace = Pace(None, at_once=3)
    beginning = [asyncio.create_task(pace.begin()) for _ in range(4)]
    await until(lambda: sum(task.done() for task in beginning) == 3, "three began")
    assert not beginning[3].done()
    pace.end()
    await beginning[3]


async def test_turns_are_spaced_by_the_rate() -> None:
    loop = asyncio.get_running_loop()
    pace = Pace(20, at_once=9)
    begun = []
    for _ in range(4):
        await pace.begin()
        begun.append(loop.time())
    gaps = [later - earlier for earlier, later in pairwise(begun)]
    # Never early, but for the loop's own resolution; a machine that is busy may be late.
    assert min(gaps) >= 1 / 20 - 0.001


async def test_who_stops_waiting_gives_its_turn_to_the_next() -> None:
    pace = Pace(None, at_once=1)
    await pace.begin()
    leaving, staying = (asyncio.create_task(pace.begin()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    pace.end()
    await staying
