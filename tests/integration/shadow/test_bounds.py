"""What the shadow keeps alive is bounded in bytes, whoever is slow, and given back in the end."""

from __future__ import annotations

import json
import os
import signal

from gateway.core.model import Side
from tests.integration.shadow.conftest import QUICK, JsonSide, mirrored
from tests.integration.shadow.scene import JSON, ask, children, compared, mirror, resident_bytes, shadow, started
from tests.support.raw_upstream import answer
from tests.support.sides import StubSide, get, post
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess

MIB = 1 << 20
BUDGET = 16 * MIB


def offered(worker: WorkerProcess, operation: str = "item.get") -> int:
    """Reads that were answered."""
    counted = dict(mirror(worker, operation))
    # Where copies had no room for their answers, too.
    return counted.get("sent", 0) + counted.get("queue_full", 0) + counted.get("comparison_full", 0)


def ended(worker: WorkerProcess) -> int:
    """Reads that have come to a first verdict, or to none."""
    judged = compared(worker)
    verdicts = (
        judged.get("suspected", 0)
        - judged.get("settled", 0)
        + sum(count for result, count in judged.items() if result not in ("suspected", "settled"))
    )
    return verdicts + sum(count for result, count in mirror(worker).items() if result != "sent")


def is_idle(worker: WorkerProcess) -> bool:
    return shadow(worker)["running"] + shadow(worker)["queued"] == 0


def is_judged(worker: WorkerProcess) -> bool:
    return is_idle(worker) and shadow(worker)["comparing"] == 0


async def test_a_process_that_compares_no_more_fills_the_budget_and_not_the_memory(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    settings = {**QUICK, "queue_bytes": BUDGET, "compare_s": 300}
    worker = await started(place, mirrored(stubs), "stopped", shadow=settings)
    old.content, new.content = {}, {"a": 1}
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker).get("settled") == 1, "it compares")
    [pid] = children(worker.process.pid)
    os.kill(pid, signal.SIGSTOP)
    before = resident_bytes(worker.process.pid)
    new.respond = lambda _: answer(b'"' + b"x" * 900_000 + b'"', JSON)
    for batch in range(1, 21):
        await ask(worker, *(get("/items/1", "x-key: k") for _ in range(15)))
        await until(lambda: offered(worker) >= 1 + batch * 15 and is_idle(worker), "all copies are there")  # noqa: B023
    assert set(mirror(worker)) == {"sent", "comparison_full"}
    assert mirror(worker)["comparison_full"] > 200
    assert 8 * MIB < shadow(worker)["held_bytes"] <= BUDGET
    assert resident_bytes(worker.process.pid) - before < BUDGET + 40 * MIB
    waiting = shadow(worker)["comparing"]
    os.kill(pid, signal.SIGCONT)
    await until(lambda: compared(worker).get("settled") == 1 + waiting, "what waited is judged")
    await until(lambda: shadow(worker)["held_bytes"] == 0, "everything is given back")


async def test_bodies_of_requests_that_wait_to_be_read_again_count(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    content = mirrored(stubs)
    content["operations"]["item.find"] |= {"class": "read", "mirror_percent": 100, "body_limit": 2 * MIB}
    settings = {**QUICK, "queue_bytes": BUDGET, "lag_s": 300}
    worker = await started(place, content, "bodies", shadow=settings)
    old.content, new.content = {"a": 1}, {"a": 2}
    request = post("/find", json.dumps({"key": "k", "pad": "x" * MIB}).encode(), "content-type: application/json")
    for batch in range(1, 16):
        await ask(worker, request, request)
        await until(lambda: offered(worker, "item.find") == 2 * batch and is_judged(worker), "it is judged")  # noqa: B023
    counted = mirror(worker, "item.find")
    assert counted["queue_full"] > 15
    assert counted["sent"] * MIB <= shadow(worker)["held_bytes"] <= BUDGET


async def test_header_fields_count(place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide) -> None:
    worker = await started(place, mirrored(stubs), "fields", shadow={**QUICK, "queue_bytes": 2 * MIB, "lag_s": 300})
    new.content = {"a": 2}
    fields = [f"x-field-{number}: {'v' * 3000}" for number in range(18)]
    for batch in range(1, 11):
        await ask(worker, *(get("/items/1", "x-key: k", *fields) for _ in range(6)))
        await until(lambda: offered(worker) == 6 * batch and is_judged(worker), "they are judged")  # noqa: B023
    assert mirror(worker)["queue_full"] > 20
    assert mirror(worker)["sent"] * 54_000 <= shadow(worker)["held_bytes"] <= 2 * MIB


async def test_everything_is_given_back_however_a_read_ends(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    read = get("/items/1", "x-key: k")
    steps = [
        (lambda _: answer(b"1"), lambda _: answer(b"1")),
        (lambda _: answer(b"1"), lambda _: answer(b"2")),
        (lambda _: answer(b"1"), lambda _: answer(b"{}", status=b"500 x")),
        (lambda _: answer(b"1"), lambda _: b"garbage"),
        (lambda _: answer(b"1"), lambda _: answer(b"x" * (2 * MIB))),
        (lambda _: answer(b"{}", status=b"503 x"), None),
        (lambda _: answer(b"x" * (2 * MIB)), None),
        (lambda _: b"garbage", None),
    ]
    for number, (old.respond, new.respond) in enumerate(steps, 1):
        await ask(worker, read)
        await until(lambda: ended(worker) == number, f"step {number} is counted")  # noqa: B023
    assert mirror(worker) == {"sent": 5, "too_large": 2, "not_accepted": 2}
    await until(lambda: compared(worker).get("settled") == 1, "what differed is settled")
    await until(lambda: shadow(worker)["held_bytes"] == 0, "nothing is held")
