"""A difference is read again before it counts, and what reading again cannot tell is said to be that."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from gateway.core.model import Side, Stage
from gateway.state.connect import connect
from gateway.state.evidence import EvidenceStore
from tests.integration.shadow.conftest import QUICK, JsonSide, mirrored
from tests.integration.shadow.scene import JSON, ask, compared, mirror, moved, shadow, started
from tests.support.raw_upstream import Peer, RawRequest, answer
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, get
from tests.support.waiting import until, until_async
from tests.support.worker import Bench, WorkerProcess

READ = get("/items/1", "x-key: k")


async def test_what_differs_elsewhere_each_time_is_no_mismatch(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    """In a and b at first, then in a alone, then in b alone."""
    old.content = {"a": 1, "b": 1}
    answers = iter([{"a": 2, "b": 2}, {"a": 2, "b": 1}, {"a": 1, "b": 2}])
    new.respond = lambda _: answer(json.dumps(next(answers)).encode(), JSON)
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "match": 1}, "no place stood three times")


async def test_only_what_stood_each_time_is_kept(
    worker: WorkerProcess, old: JsonSide, new: JsonSide, redis: RedisProcess
) -> None:
    old.content = {"a": 1, "b": 1}
    answers = itertools.chain([{"a": 2, "b": 2}], itertools.repeat({"a": 2, "b": 1}))
    new.respond = lambda _: answer(json.dumps(next(answers)).encode(), JSON)
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "mismatch": 1}, "it is a mismatch")
    async with connect(redis.url) as store:
        evidence = EvidenceStore(store, "shop")

        async def kept() -> list[list[str]]:
            groups, _ = await evidence.page(10, None)
            return [[d["path"] for d in group["differences"]] for group in groups if group["mismatch"]]

        await until_async(kept, "it is kept")
        assert await kept() == [["$.a"]]


async def test_a_serving_side_that_is_not_sure_itself_proves_nothing(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    """Both read one counter that never stands still."""
    counter = itertools.count()

    def count(_: RawRequest) -> bytes:
        return answer(json.dumps({"n": next(counter), "a": 1}).encode(), JSON)

    old.respond = new.respond = count
    await ask(worker, *(READ for _ in range(20)))
    await until(lambda: compared(worker).get("settled") == 20, "all are settled")
    assert compared(worker) == {"suspected": 20, "settled": 20, "incomparable:unstable": 20}


async def test_a_real_difference_beside_it_is_found_all_the_same(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    counter = itertools.count()
    old.respond = lambda _: answer(json.dumps({"n": next(counter), "a": 1}).encode(), JSON)
    new.respond = lambda _: answer(json.dumps({"n": next(counter), "a": 2}).encode(), JSON)
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "mismatch": 1}, "it is found")


async def test_more_than_can_be_read_again_is_counted_as_what_is_read(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    """A tenth of the reads differ; hardly one of those is read again, and agreement is 90 % all the same."""
    worker = await started(place, mirrored(stubs), "many", shadow={**QUICK, "rereads": 4})

    def told(request: RawRequest, value: int) -> bytes:
        is_odd = int(request.line.split(b"/")[2].split(b" ")[0]) % 10 == 0
        return answer(json.dumps({"a": value if is_odd else 0}).encode(), JSON)

    old.respond = lambda request: told(request, 1)
    new.respond = lambda request: told(request, 2)
    for batch in range(10):
        await ask(worker, *(get(f"/items/{number}", "x-key: k") for number in range(batch * 100, batch * 100 + 100)))
    await until(lambda: compared(worker).get("settled") == 100, "all are settled")
    assert compared(worker) == {"match": 900, "suspected": 100, "settled": 100, "mismatch": 100}
    assert mirror(worker) == {"sent": 1000}
    assert len(new.stub.requests) < 1200


async def test_another_stage_makes_it_incomparable(
    place: Bench, worker: WorkerProcess, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    content = mirrored(stubs)
    content["groups"]["items"]["writes"] = "shared"
    worker = await started(place, content, "stages", shadow={**QUICK, "lag_s": 1.0})
    new.content = {"a": 2}
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    await moved(place, worker, "stages", Stage.LIVE, 1_000_000)
    await until(
        lambda: compared(worker) == {"suspected": 1, "settled": 1, "incomparable:stage_changed": 1}, "it is over"
    )


async def test_a_copy_that_was_on_its_way_to_another_stage_is_incomparable(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    content = mirrored(stubs)
    content["groups"]["items"]["writes"] = "shared"
    worker = await started(place, content, "stages-of-copies")
    let = asyncio.Event()

    async def held(peer: Peer) -> None:
        await peer.receive_request()
        await let.wait()
        await peer.send(answer(b'{"a": 2}', JSON))

    new.stub.script = held
    await ask(worker, READ)
    await until(lambda: shadow(worker)["running"] == 1, "the copy is on its way")
    await moved(place, worker, "stages-of-copies", Stage.LIVE, 1_000_000)
    let.set()
    await until(lambda: compared(worker) == {"incomparable:stage_changed": 1}, "it is set apart")


async def test_nothing_is_read_again_after_a_kill(
    place: Bench, worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    new.content = {"a": 2}
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    (place.data_dir / "KILL").write_text("all\n")
    await until(lambda: worker.counters.get("killed") == ["all"], "the kill is in force")
    asked = len(new.copies)
    await until(lambda: compared(worker).get("incomparable:stopped") == 1, "it is given up")
    assert len(new.copies) == asked


@pytest.mark.parametrize("connections", [1])
async def test_second_looks_do_not_wait_for_copies_that_hang(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide, connections: int
) -> None:
    worker = await started(place, mirrored(stubs), "hung", shadow={**QUICK, "concurrency": connections})
    hung: list[RawRequest] = []

    async def serve(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            if b"/hang " in request.line:
                hung.append(request)
                await asyncio.Event().wait()
            await peer.send(answer(b'{"a": 2}', JSON))

    new.stub.script = serve
    await ask(worker, READ)
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    await ask(worker, get("/items/hang", "x-key: k"))
    await until(lambda: hung, "all places for copies are taken")
    await until(lambda: compared(worker).get("mismatch") == 1, "it is read again meanwhile")


async def test_what_is_under_way_when_the_worker_leaves_is_settled(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    worker = await started(place, mirrored(stubs), "leaving", shadow={**QUICK, "lag_s": 300})
    hung: list[RawRequest] = []

    async def serve(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            if b"/hang " in request.line:
                hung.append(request)
                await asyncio.Event().wait()
            await peer.send(answer(b'{"a": 2}', JSON))

    new.stub.script = serve
    await ask(worker, READ, READ)
    await until(lambda: compared(worker) == {"suspected": 2}, "they are suspected")
    await ask(worker, get("/items/hang", "x-key: k"))
    await until(lambda: hung, "a copy is on its way")
    worker.process.terminate()
    await until(lambda: worker.process.poll() is not None, "it has left")
    await until(lambda: compared(worker).get("settled") == 2, "its last word was heard")
    assert compared(worker) == {"suspected": 2, "settled": 2, "incomparable:stopped": 2}
    assert mirror(worker) == {"sent": 3, "stopped": 1}
