"""Evaluators on a clock that is turned by hand, which tell each other what they count through a dictionary."""

from __future__ import annotations

import asyncio
import heapq
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gateway.core.detect.record import Cause
from gateway.core.detect.reports import Heard, Report, Said, packed, report_of, unpacked
from gateway.core.model import (
    SCOPE_ALL,
    Definition,
    Latch,
    LatchKind,
    OperationPolicy,
    Policy,
    Scope,
    Side,
    Stage,
    Thresholds,
    Writes,
)
from gateway.core.outcome import Outcome
from gateway.core.snapshot import Snapshot, compile_snapshot
from gateway.guard.evaluator import TICK_S, Evaluator
from gateway.guard.ports import Surroundings
from gateway.telemetry.counters import RequestCounters
from tests.unit.core.migrations import at, definition, operation, policy

EPOCH_S = 1_000.0
"""What the clock says in the beginning."""


class HandClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = EPOCH_S

    def __call__(self) -> float:
        return self.now


@dataclass
class Board:
    """What processes have told: what Redis would hold."""

    signals: dict[str, str] = field(default_factory=dict)
    histograms: dict[tuple[str, str], bytes] = field(default_factory=dict)
    learnt: dict[str, str] = field(default_factory=dict)


class BoardExchange:
    """Reads and writes a board. `gate` holds every call up; `is_up` says no."""

    def __init__(self, board: Board, process: str) -> None:
        self.board = board
        self.process = process
        self.is_up = True
        self.gate = asyncio.Event()
        self.gate.set()
        self._seq = 0

    async def swap(self, said: Said) -> Heard | None:
        await self.gate.wait()
        if not self.is_up:
            return None
        self._seq += 1
        board = self.board
        board.signals[self.process] = json.dumps([self._seq, said.signals, said.hanging])
        for name, sources in said.histograms.items():
            board.histograms[self.process, name] = packed(sources)
        reports: dict[str, Report] = {}
        unreadable = set()
        for process, text in board.signals.items():
            if process != self.process:
                report = report_of(json.loads(text))
                if report is None:
                    unreadable.add(process)
                else:
                    reports[process] = report
        histograms: dict[str, dict[str, Mapping[str, Sequence[int]]]] = {}
        for (process, name), data in board.histograms.items():
            if process != self.process and name in said.due:
                found = unpacked(data)
                assert found is not None
                histograms.setdefault(process, {})[name] = found
        return Heard(reports, histograms, frozenset(unreadable))

    async def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.board.signals.pop(name, None)
            for pair in [pair for pair in self.board.histograms if pair[0] == name]:
                del self.board.histograms[pair]

    async def learnt(self) -> Mapping[str, object] | None:
        return {name: json.loads(text) for name, text in self.board.learnt.items()} if self.is_up else None

    async def keep(self, learnt: Mapping[str, object]) -> None:
        self.board.learnt.update({name: json.dumps(each) for name, each in learnt.items()})


class Request:
    """One that waits for a side."""

    def __init__(self, operation: str, began: float) -> None:
        self.operation: str | None = operation
        self.began = began
        self.is_late = False
        self.has_begun = False
        self.taken_back = 0

    def take_back(self) -> None:
        self.taken_back += 1


class World:
    """One worker: its counters, its requests, its evaluator, and a policy that its trips change."""

    def __init__(
        self, found: Definition, policy: Policy, clock: HandClock, board: Board | None = None, process: str = "w0:1"
    ) -> None:
        self.definition = found
        self.policy = policy
        self.clock = clock
        self.snapshot: Snapshot | None = compile_snapshot(found, policy)
        self.counters = RequestCounters(clock)
        self.exchange = BoardExchange(board if board is not None else Board(), process)
        self.on_new: set[Request] = set()
        self.on_old: set[Request] = set()
        self.causes: list[Cause] = []
        self.latches: dict[Scope, Latch] = {}
        self.takes_out = True
        self.unix_s = 1_700_000_000.0
        self.evaluator = Evaluator(
            found,
            self.counters,
            self.exchange,
            Surroundings(lambda: self.snapshot, self.on_new, self.on_old, clock, lambda: self.unix_s),
            self.trip,
            late_s=0.001,
        )

    def trip(self, cause: Cause) -> None:
        self.causes.append(cause)
        if self.takes_out:
            self.latch(cause.scope, LatchKind.TRIP)

    def latch(self, scope: Scope = SCOPE_ALL, kind: LatchKind = LatchKind.KILL) -> None:
        self.latches[scope] = Latch(scope, kind, "because", "somebody", datetime.now(UTC))
        self.compile()

    def rearm(self) -> None:
        self.latches.clear()
        self.compile()

    def compile(self) -> None:
        self.snapshot = compile_snapshot(self.definition, self.policy, external=self.latches)

    def move(self, name: str, stage: Stage, percent: float = 0) -> None:
        self.policy = replace(self.policy, operations={**self.policy.operations, name: at(stage, percent)})
        self.compile()

    @property
    def signals(self) -> list[str]:
        """What it tripped by."""
        return [f"{cause.scope}: {cause.signal}" for cause in self.causes]

    def state(self, name: str = "a") -> tuple[str, str]:
        found = self.evaluator.states()[name]
        return found["state"], found["why"] or ""

    def answers(self, side: Side, count: int, seconds: float = 0.05, *, name: str = "a", failed: int = 0) -> None:
        """So many answers came, some of them failures."""
        for number in range(count):
            outcome = Outcome.FAILURE if number < failed else Outcome.OK
            self.counters.answered(name, side, outcome, seconds)

    async def tick(self, seconds: float = TICK_S) -> None:
        self.clock.now += seconds
        await self.evaluator.tick()

    async def ticks(self, count: int, *, new: int = 0, old: int = 0, failed: int = 0, name: str = "a") -> None:
        """So many ticks with the same traffic, as long as nothing trips."""
        for _ in range(count):
            self.answers(Side.NEW, new, name=name, failed=failed)
            self.answers(Side.OLD, old, name=name)
            await self.tick()

    def hang(self, count: int, *, name: str = "a", ago_s: float = 0.0, side: Side = Side.NEW) -> None:
        """So many requests wait."""
        waiting = self.on_new if side is Side.NEW else self.on_old
        waiting.update(Request(name, self.clock.now - ago_s) for _ in range(count))


def world(
    *names: str,
    stage: Stage = Stage.LIVE,
    percent: float = 50,
    writes: Writes = Writes.SHARED,
    thresholds: Thresholds | None = None,
    **more: Any,
) -> World:
    """A worker; every operation is a read of one group."""
    names = names or ("a",)
    operations = [operation(name, group="workspace") for name in names]
    found = definition(operations, writes, thresholds=thresholds or Thresholds())
    shares: dict[str, OperationPolicy] = {name: at(stage, percent) for name in names}
    return World(found, policy(shares), more.pop("clock", None) or HandClock(), **more)


@dataclass(frozen=True)
class Pace:
    """How fast requests come to each side, and how long they take.

    Attributes:
        rate: A second, on each side.
        median_s: Of durations, which are lognormal.
        spread: Sigma of their logarithm.
    """

    rate: float
    median_s: float
    spread: float = 1.0


class Traffic:
    """Requests that come at random and end at their time, on both sides of one worker."""

    def __init__(self, world: World, pace: Pace, seed: int) -> None:
        self._world = world
        self._pace = pace
        self._rng = random.Random(seed)
        self._running: list[tuple[float, int, Side, float, Request]] = []
        self._next = dict.fromkeys(Side, world.clock.now)
        self._number = 0
        self.factor = dict.fromkeys(Side, 1.0)

    async def run(self, seconds: float) -> float | None:
        """Goes on; stops at a trip, and returns after how many seconds it came."""
        begun = self._world.clock.now
        while self._world.clock.now - begun < seconds:
            self.advance(self._world.clock.now + TICK_S)
            await self._world.tick()
            if self._world.causes:
                return self._world.clock.now - begun
        return None

    def advance(self, end: float) -> None:
        """Lets begin and end what does until then; the clock is not turned."""
        world, pace, rng = self._world, self._pace, self._rng
        waiting = {Side.NEW: world.on_new, Side.OLD: world.on_old}
        for side in Side:
            while self._next[side] < end:
                began = self._next[side]
                seconds = pace.median_s * self.factor[side] * rng.lognormvariate(0, pace.spread)
                request = Request("a", began)
                waiting[side].add(request)
                self._number += 1
                heapq.heappush(self._running, (began + seconds, self._number, side, seconds, request))
                self._next[side] = began + rng.expovariate(pace.rate)
        while self._running and self._running[0][0] <= end:
            _, _, side, seconds, request = heapq.heappop(self._running)
            waiting[side].discard(request)
            world.counters.answered("a", side, Outcome.OK, seconds, is_late=request.is_late)
