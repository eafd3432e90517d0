"""After the cutover it is old that gets the copies: in `live`, where both sides work on one store."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.model import Side
from tests.integration.shadow.conftest import JsonSide, mirrored
from tests.integration.shadow.scene import ask, compared, mirror, started
from tests.support.sides import StubSide, get
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess

READ = get("/items/1", "x-key: k", "x-request-id: the-request")


def live(stubs: dict[Side, StubSide], writes: str = "shared", percent: float = 100) -> dict[str, Any]:
    content = mirrored(stubs)
    content["groups"]["items"]["writes"] = writes
    for operation in content["operations"].values():
        operation |= {"stage": "live", "percent": percent}
    return content


@pytest.fixture
async def worker(place: Bench, stubs: dict[Side, StubSide]) -> WorkerProcess:
    return await started(place, live(stubs), "reverse")


async def test_they_match(worker: WorkerProcess, old: JsonSide, new: JsonSide) -> None:
    assert await ask(worker, READ) == [200]
    await until(lambda: compared(worker) == {"match": 1}, "they match")
    assert (len(old.copies), len(new.copies)) == (1, 0)


async def test_a_difference_is_read_again_on_both_sides(worker: WorkerProcess, old: JsonSide, new: JsonSide) -> None:
    old.content = {"a": 2}
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "mismatch": 1}, "it is a mismatch")
    assert (len(old.copies), len(new.copies)) == (3, 4)
    assert {request.field(b"x-request-id")[0] for request in old.copies + new.copies} == {b"the-request"}


async def test_a_difference_that_goes_away_is_none(worker: WorkerProcess, old: JsonSide, new: JsonSide) -> None:
    old.content = {"a": 2}
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    new.content = {"a": 2}
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "match": 1}, "it is none")


async def test_olds_failure_is_olds(worker: WorkerProcess, old: JsonSide, new: JsonSide) -> None:
    old.respond = lambda _: b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n"
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"incomparable:baseline_error": 1}, "old's failure is old's")


async def test_keys_that_have_not_moved_are_mirrored_the_other_way(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    worker = await started(place, live(stubs, percent=0), "forward")
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"match": 1}, "they match")
    assert (len(old.copies), len(new.copies)) == (0, 1)


@pytest.mark.parametrize("percent", [0, 100])
async def test_sides_that_cannot_know_of_each_other_are_not_compared(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide, percent: int
) -> None:
    worker = await started(place, live(stubs, "none", percent), "apart")
    await ask(worker, READ)
    await until(lambda: mirror(worker) == {"unshared": 1}, "it is counted")
    assert old.copies == new.copies == []
