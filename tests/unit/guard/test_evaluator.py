"""The loop that judges, worker by worker, on a clock that is turned by hand."""

from __future__ import annotations

import json

import pytest

from gateway.core.detect.guard import POOLED
from gateway.core.model import LatchKind, Side, Stage, Writes
from gateway.core.outcome import Outcome
from tests.unit.guard.scene import Board, HandClock, World, world


async def test_failures_take_new_out_at_once() -> None:
    found = world("a", "b")
    await found.ticks(4, new=25)
    await found.ticks(3, new=25, failed=25)
    assert found.signals == ["operation:a: errors"]
    await found.ticks(3, new=25, failed=25)
    assert len(found.causes) == 1


async def test_what_another_worker_sees_counts_here() -> None:
    clock, board = HandClock(), Board()
    one, other = (world("a", clock=clock, board=board, process=f"w{number}:1") for number in range(2))
    for _ in range(4):
        clock.now += 0.25
        other.answers(Side.NEW, 25, failed=25)
        await other.evaluator.tick()
        await one.evaluator.tick()
    assert one.signals == ["operation:a: errors"]


# --- silence -------------------------------------------------------------------------------------------------------


async def learn_slow(found: World, name: str = "a") -> None:
    for _ in range(4 * 30):
        found.answers(Side.OLD, 20, 30.0, name=name)
        found.answers(Side.NEW, 1, 30.0, name=name)
        await found.tick()


async def test_silence_of_slow_operations_takes_nothing_out_while_it_is_usual() -> None:
    found = world("a", "b")
    await learn_slow(found)
    found.hang(12)
    await found.ticks(4 * 50)
    assert found.causes == []
    await found.ticks(4 * 12)
    assert "silence" in {cause.signal for cause in found.causes}


async def test_silence_says_nothing_where_nobody_knows_how_long_an_answer_takes() -> None:
    found = world("a", "b")
    found.hang(12)
    # A quarter of the time to the first byte that an answer may take.
    await found.ticks(4 * 14)
    assert found.causes == []
    await found.ticks(4 * 2)
    assert found.signals == ["operation:a: silence"]


async def test_what_has_begun_to_answer_is_not_silent() -> None:
    found = world("a", "b")
    found.hang(12)
    for request in found.on_new:
        request.has_begun = True
    await found.ticks(4 * 30)
    assert found.causes == []


async def test_silence_of_before_a_kill_is_forgotten() -> None:
    found = world("a")
    found.hang(12)
    await found.ticks(4 * 12)
    found.latch()
    found.on_new.clear()
    await found.ticks(400)
    found.rearm()
    found.hang(12)
    await found.ticks(4)
    assert found.causes == []


# --- what is judged ------------------------------------------------------------------------------------------------


async def test_evidence_does_not_outlive_its_stage() -> None:
    found = world("a", "b")
    await found.ticks(10, new=25)
    await found.ticks(2, new=25, failed=25)
    assert found.state()[0] == "hold"
    found.move("a", Stage.OFF)
    await found.ticks(1)
    assert found.state()[0] == "no_data"
    found.move("a", Stage.LIVE, 50)
    await found.ticks(1, new=10, failed=10)
    assert found.causes == []


async def test_one_failure_of_a_bound_group_is_one_trip() -> None:
    found = world("a", "b", "c", writes=Writes.NONE)
    for _ in range(5):
        for name in "abc":
            found.answers(Side.NEW, 10, name=name, failed=10)
        await found.tick()
    assert found.signals == ["operation:a: errors"]


async def test_in_complete_it_pages_and_again_after_a_while() -> None:
    found = world("a", stage=Stage.COMPLETE, percent=100)
    found.takes_out = False
    await found.ticks(20, new=25)
    assert "sends nothing" not in found.state()[1]
    await found.ticks(8, new=25, failed=25)
    assert found.signals == ["operation:a: errors"]
    assert found.state()[0] == "tripped"
    assert "pages" in found.state()[1]
    await found.ticks(4 * 590, new=1, failed=1)
    assert len(found.causes) == 1
    await found.ticks(4 * 30, new=5, failed=5)
    assert len(found.causes) == 2


async def test_new_thresholds_and_a_rearm_begin_without_evidence() -> None:
    found = world("a")
    await found.ticks(2, new=25, failed=25)
    found.latch(kind=LatchKind.KILL)
    await found.ticks(1)
    found.rearm()
    await found.ticks(2, new=25, failed=25)
    assert found.causes == []


# --- what others say -----------------------------------------------------------------------------------------------

ODD = [
    "[7, null]",
    '[7, {"a": [1, 2, null]}]',
    '[7, {"a": ["1", "2"]}]',
    '[7, {"a": [-1]}]',
    '["7", {}]',
    "7",
    '[7, {"a": 7}]',
    '[7, {"a": [true]}]',
    '[7, {}, {"a": "x"}]',
]


@pytest.mark.parametrize("text", ODD)
async def test_a_report_that_cannot_be_read_hinders_nobody(text: str) -> None:
    found = world("a")
    found.exchange.board.signals["w9:1"] = text
    await found.ticks(3, new=25, failed=25)
    assert found.signals == ["operation:a: errors"]


async def test_a_report_of_another_version_may_be_shorter_or_longer() -> None:
    found = world("a", "b")
    for seq, width in enumerate((4, 4, 40, 40, 40, 40), start=100):
        found.exchange.board.signals["w9:1"] = json.dumps([seq, {"a": [25 * seq, 25 * seq, *[0] * (width - 2)]}])
        await found.tick()
    assert found.signals == ["operation:a: errors"]


async def test_a_guard_that_fails_says_so() -> None:
    found = world("a")
    await found.ticks(20, new=25)
    found.clock.now += 3
    state, why = found.state()
    assert (state, "has not judged" in why) == ("not_armed", True)


async def test_a_redis_that_hangs_delays_nothing_and_nothing_counts_twice() -> None:
    clock, board = HandClock(), Board()
    one, other = (world("a", "b", clock=clock, board=board, process=f"w{number}:1") for number in range(2))
    for _ in range(4):
        one.answers(Side.NEW, 25)
        other.answers(Side.NEW, 25)
        clock.now += 0.25
        await one.evaluator.tick()
        await other.evaluator.tick()
    one.exchange.gate.clear()
    for _ in range(3):
        one.answers(Side.NEW, 5, failed=1)
        other.answers(Side.NEW, 5, failed=1)
        clock.now += 0.25
        await one.evaluator.tick()
        await other.evaluator.tick()
    assert "this worker alone" in one.state()[1]
    one.exchange.gate.set()
    for _ in range(2):
        clock.now += 0.25
        await one.evaluator.tick()
        await other.evaluator.tick()
    assert "this worker alone" not in one.state()[1]
    one.answers(Side.NEW, 25, failed=25)
    while not one.causes:
        one.answers(Side.NEW, 25, failed=25)
        clock.now += 0.25
        await one.evaluator.tick()
    excursion = one.causes[0].excursion
    assert excursion is not None
    # Of itself 15 with 3 failures, of the other one likewise after 25 good ones, and 25 at each bad tick.
    assert excursion.k - 6 == excursion.n - 55


async def test_a_redis_that_hangs_does_not_keep_a_trip() -> None:
    found = world("a")
    found.exchange.gate.clear()
    await found.ticks(3, new=25, failed=25)
    assert found.signals == ["operation:a: errors"]
    assert found.causes[0].is_alone
    found.exchange.gate.set()


async def test_half_of_the_workers_blind_holds() -> None:
    clock, board = HandClock(), Board()
    workers = [world("a", clock=clock, board=board, process=f"w{number}:1") for number in range(4)]
    for _ in range(8):
        clock.now += 0.25
        for worker in workers:
            worker.answers(Side.NEW, 5)
            await worker.evaluator.tick()
    assert "silent" not in workers[0].state()[1]
    for _ in range(12):
        clock.now += 0.25
        await workers[0].evaluator.tick()
    assert workers[0].state()[0] == "hold"
    assert workers[0].state()[1].startswith("3 of 4 workers are silent")


async def test_a_worker_that_was_started_again_is_one_worker() -> None:
    clock, board = HandClock(), Board()
    first = world("a", clock=clock, board=board, process="w0:1")
    for number in range(2, 6):
        await world("a", clock=clock, board=board, process=f"w1:{number}").tick()
    last = world("a", clock=clock, board=board, process="w1:9")
    for _ in range(12):
        clock.now += 0.25
        await first.evaluator.tick()
        await last.evaluator.tick()
    assert first.state()[0] != "hold"


# --- what is said --------------------------------------------------------------------------------------------------


async def test_an_hour_without_a_request_is_no_data() -> None:
    found = world("a")
    await found.ticks(4 * 40, new=5, old=20)
    assert found.state()[0] == "armed"
    for _ in range(3700):
        await found.tick(1.0)
    assert found.state() == ("no_data", "no request on new for 1 h")


async def test_it_says_that_nothing_was_compared() -> None:
    found = world("a")
    await found.ticks(4 * 40, new=5, old=20)
    assert found.state() == ("armed", "consistency: no answers were compared yet")
    found.counters.compared("a", "match")
    await found.ticks(1)
    assert found.state() == ("armed", "")
    assert found.state(POOLED)[0] == "armed"


async def test_it_says_how_many_more_requests_it_needs() -> None:
    found = world("a")
    await found.ticks(4 * 40, new=5, old=20)
    await found.ticks(1, new=4, failed=3)
    state, why = found.state()
    assert state == "armed"
    assert "more requests" in why


# --- mirrored reads, and what outlives a restart -------------------------------------------------------------------


def mirrored(found: World, count: int, failed: int = 0) -> None:
    for number in range(count):
        outcome = Outcome.FAILURE if number < failed else Outcome.OK
        found.counters.mirror_answered("a", Side.NEW, outcome, 0.05)


async def test_mirrored_failures_hold_and_take_nothing_out() -> None:
    found = world("a", "b", stage=Stage.SHADOW_READ, percent=0)
    for _ in range(8):
        mirrored(found, 10, 10)
        await found.tick()
    state, why = found.state()
    assert (state, why.startswith("mirrored reads: errors")) == ("hold", True)
    assert found.causes == []
    found.move("a", Stage.LIVE, 1)
    await found.ticks(1)
    assert found.state()[0] == "no_data"


async def test_burstiness_is_learnt_from_mirrored_reads_and_outlives_a_restart() -> None:
    board = Board()
    found = world("a", "b", stage=Stage.SHADOW_READ, percent=0, board=board)
    for number in range(15_000):
        mirrored(found, 10, 3 if number % 100 == 0 else 0)
        await found.tick()
    await found.tick(61)
    await found.tick(61)
    learnt = found.evaluator.states()["a"]["dispersion"]
    assert learnt > 2
    assert found.evaluator.states()[POOLED]["dispersion"] == learnt
    again = world("a", "b", stage=Stage.LIVE, percent=1, board=board)
    await again.ticks(2)
    await again.ticks(1, new=10)
    assert again.evaluator.states()["a"]["dispersion"] == learnt
    # Frozen: what is served teaches nothing.
    await again.ticks(100, new=10)
    assert again.evaluator.states()["a"]["dispersion"] == learnt


async def test_what_old_answers_to_copies_is_a_baseline_where_it_serves_nobody() -> None:
    found = world("a", "b", percent=100)
    for _ in range(4 * 60):
        found.answers(Side.NEW, 20)
        found.counters.mirror_answered("a", Side.OLD, Outcome.OK, 0.05)
        await found.tick()
    assert found.state()[0] == "armed"
    assert "mirrored reads" in found.state()[1]
    for _ in range(4 * 60):
        found.answers(Side.NEW, 20, 0.5)
        found.counters.mirror_answered("a", Side.OLD, Outcome.OK, 0.5)
        await found.tick()
    assert found.causes == []
    while not found.causes:
        found.answers(Side.NEW, 20, 5.0)
        found.counters.mirror_answered("a", Side.OLD, Outcome.OK, 0.5)
        await found.tick()
    assert found.signals == ["operation:a: latency"]


async def test_a_worker_that_starts_after_the_cutover_knows_what_old_did() -> None:
    board = Board()
    before = world("a", "b", board=board)
    await before.ticks(4 * 60, new=5, old=20)
    await before.tick(61)
    await before.tick(61)
    after = world("a", "b", percent=100, board=board, process="w1:1")
    await after.ticks(4 * 40, new=20)
    state, why = after.state()
    assert (state, "another week" in why) == ("armed", True)
    for _ in range(20):
        after.answers(Side.NEW, 20, 0.5)
        await after.tick()
    assert after.signals == ["operation:a: latency"]
