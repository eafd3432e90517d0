"""The queue of copies for one side: bounds, order, what is let go of and what it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.core.compare.answers import Answer
from gateway.core.model import Deadlines, ErrorCode, Side
from gateway.core.snapshot import Plan
from gateway.errors import Phase, RevokedError, UpstreamError
from gateway.ports import ServedRead, UpstreamRequest
from gateway.shadow.budget import Budget, Holding, Level
from gateway.shadow.copier import Copier, Job
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import Fetch
from gateway.shadow.standing import Standing
from gateway.telemetry.counters import RequestCounters
from tests.support.waiting import until
from tests.unit.shadow.plans import plan_of_a_read

SERVED = Answer(200, [], b"{}")


class Desk:
    """A copier, and the other side's answers at hand."""

    def __init__(self, limits: ShadowLimits, refuses: ErrorCode | None = None) -> None:
        self.plan: Plan | None = plan_of_a_read()
        self.counters = RequestCounters()
        self.budget = Budget(1 << 20)
        self.done: list[Answer | None] = []
        self.begun: list[Fetch] = []
        self._refuses = refuses
        self._read = ServedRead(
            plan=plan_of_a_read(),
            side=Side.OLD,
            key="k",
            request_id=b"r",
            is_mcp=False,
            request=UpstreamRequest(b"GET", b"/items/1", [], None, Deadlines(), may_retry=True),
            hosts={},
            client_host=None,
        )
        self.copier = Copier(
            Side.NEW, self._send, limits, self.counters, Standing(lambda _: self.plan), lambda _: None, self._done
        )

    @property
    def mirror(self) -> dict[str, int]:
        """What became of the reads."""
        return dict(self.counters.blob()["mirror"].get("git.status", {}))

    @property
    def failures(self) -> int:
        """Copies that the side has failed."""
        copies = self.counters.blob()["copies"].get("git.status", {})
        return int(copies.get("new", {}).get("outcomes", {}).get("failure", 0))

    def _send(self, _: ServedRead, receiver: Fetch) -> None:
        if self._refuses is not None:
            raise failure(self._refuses)
        self.begun.append(receiver)

    def _done(self, job: Job, answer: Answer | None) -> None:
        job.holding.release()
        self.done.append(answer)

    def offer(self, times: int = 1, at: float | None = None) -> None:
        for _ in range(times):
            holding = Holding(self.budget, Level.NEW)
            assert holding.grow(1000)
            now = asyncio.get_running_loop().time()
            self.copier.offer(Job(self._read, SERVED, holding, now if at is None else at))

    def kill(self) -> None:
        assert self.plan is not None
        self.plan = replace(self.plan, mirror_limit=0)
        self.copier.policy_changed()


def failure(code: ErrorCode) -> UpstreamError:
    return UpstreamError(code, upstream="new", phase=Phase.CONNECT, detail="x", sent=False)


async def test_a_full_queue_takes_no_more() -> None:
    desk = Desk(ShadowLimits(queue=3, concurrency=2))
    desk.offer(6)
    assert desk.mirror == {"sent": 2, "queue_full": 1}
    assert (desk.copier.running, desk.copier.queued) == (2, 3)
    assert desk.budget.held == 5000


async def test_who_waited_too_long_is_gone() -> None:
    desk = Desk(ShadowLimits(concurrency=1, waiting_s=5))
    desk.offer()
    desk.offer(2, at=-100.0)
    desk.offer()
    assert desk.mirror == {"sent": 1, "too_late": 2}
    assert desk.copier.queued == 1


async def test_a_kill_empties_the_queue_while_copies_hang() -> None:
    desk = Desk(ShadowLimits(concurrency=1))
    desk.offer(4)
    desk.kill()
    assert desk.mirror == {"sent": 1, "kill": 3}
    assert desk.budget.held == 1000


async def test_the_end_gives_up_everything() -> None:
    desk = Desk(ShadowLimits(concurrency=1))
    desk.offer(4)
    desk.copier.close()
    assert desk.mirror == {"sent": 1, "stopped": 4}
    assert (desk.budget.held, desk.copier.running, desk.copier.queued) == (0, 0, 0)
    # Whatever comes now comes too late.
    desk.begun[0].answer_received(200, [], 2, b"{}")
    assert desk.done == []


@pytest.mark.parametrize(("code", "why"), [(ErrorCode.OVERLOADED, "queue_full"), (ErrorCode.BAD_REQUEST, "unsendable")])
async def test_what_our_own_client_refuses_is_no_failure_of_the_side(code: ErrorCode, why: str) -> None:
    desk = Desk(ShadowLimits(concurrency=1))
    desk.offer()
    desk.begun[0].exchange_failed(failure(code))
    assert desk.mirror == {"sent": 1, why: 1}
    assert (desk.done, desk.failures, desk.budget.held) == ([], 0, 0)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.UPSTREAM_REFUSED,
        ErrorCode.UPSTREAM_RESET,
        ErrorCode.UPSTREAM_INVALID,
        ErrorCode.UPSTREAM_TIMEOUT,
        ErrorCode.NO_UPSTREAM,
    ],
)
async def test_what_the_side_did_not_answer_is(code: ErrorCode) -> None:
    desk = Desk(ShadowLimits(concurrency=1))
    desk.offer()
    desk.begun[0].exchange_failed(failure(code))
    assert desk.done == [None]
    assert desk.failures == 1


async def test_a_copy_that_a_kill_overtook_was_not_sent() -> None:
    desk = Desk(ShadowLimits(concurrency=1))
    desk.offer()
    desk.begun[0].exchange_failed(RevokedError())
    assert desk.mirror == {"sent": 1, "kill": 1}
    assert desk.done == []


async def test_refusals_before_anything_was_sent_come_later() -> None:
    desk = Desk(ShadowLimits(concurrency=1), refuses=ErrorCode.NO_UPSTREAM)
    desk.offer()
    assert desk.done == []
    await until(lambda: desk.done == [None], "it is told")


def answered(desk: Desk, respond: Callable[[Fetch], None], times: int) -> None:
    for _ in range(times):
        desk.offer()
        respond(desk.begun.pop())


async def test_a_side_that_turns_copies_away_gets_fewer() -> None:
    desk = Desk(ShadowLimits(concurrency=64))
    for _ in range(3):
        answered(desk, lambda receiver: receiver.answer_received(503, [], 0, b""), 50)
    assert desk.copier.pace.limit < 8


async def test_a_side_that_fails_quickly_gets_no_more() -> None:
    desk = Desk(ShadowLimits(concurrency=64))
    answered(desk, lambda receiver: receiver.answer_received(500, [], 0, b""), 200)
    assert desk.copier.pace.limit == 8


async def test_a_closed_budget_is_no_failure_of_the_side() -> None:
    desk = Desk(ShadowLimits(concurrency=1, body_bytes=1 << 21))
    desk.offer()
    desk.begun[0].answer_received(200, [], None, b"x" * (1 << 20))
    assert desk.mirror == {"sent": 1, "comparison_full": 1}
    assert (desk.done, desk.budget.held) == ([], 0)
