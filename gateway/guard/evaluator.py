"""The loop that judges: four times a second on every worker, with no leader to fail; the first to trip wins.

What it decides is done here before any network call. What this worker counted comes from its own counters; where Redis
is away, or late, that alone is judged, and what the others said is added when it comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway.core.detect.cusum import Excursion
from gateway.core.detect.guard import FIELDS, NOTHING, POOLED, Counted, Guard
from gateway.core.detect.latency import Baseline, Concurrent, is_confirmed, is_confirmed_together
from gateway.core.detect.record import Cause
from gateway.core.detect.reports import Heard, Histograms, Said
from gateway.core.model import SCOPE_ALL, Definition, Scope, ScopeKind
from gateway.core.snapshot import Plan, Snapshot
from gateway.guard.causes import silence_of, trip_of
from gateway.guard.hearing import OWN, Hearing
from gateway.guard.memory import Memory
from gateway.guard.ports import Counting, Exchange, Surroundings
from gateway.guard.telling import Looked, state_of
from gateway.guard.watched import AT_MOST_S, STEP_S, Mark, Mode, Watched, mode_of

TICK_S: Final = 0.25
_TURNS: Final = 8
"""Histograms of an operation are told every two seconds, and not of all at the same tick."""
_HOT: Final = 0.25
"""Evidence of slowness from which on they are told at every tick: who is asked to confirm must know both sides now."""
_PATIENCE_S: Final = 1.0
"""How long a request that new was asked before it was taken out may still wait for it, where nobody knows the usual."""
_LATE_S: Final = 0.1
"""How long a tick waits for what the others said."""
_CLEANED_EVERY: Final = 40
_Marks = tuple[Mark, Mapping[str, Mark]]
"""Of all together, and of each operation."""


class Evaluator:
    """Judges new for one worker."""

    def __init__(
        self,
        definition: Definition,
        counting: Counting,
        exchange: Exchange,
        around: Surroundings,
        trip: Callable[[Cause], None],
        late_s: float = _LATE_S,
    ) -> None:
        """Judges nothing yet.

        Args:
            definition: From the file.
            counting: What this worker counts.
            exchange: With the others.
            around: What it looks at.
            trip: Takes new out of a scope, locally first.
            late_s: How long a tick waits for the others.
        """
        self._counting = counting
        self._around = around
        self._trip = trip
        self._hearing = Hearing(exchange, around.clock, late_s)
        self._memory = Memory(exchange, lambda: self._watched)
        self._ticks = 0
        self._judged_at = around.clock()
        self._hot: set[str] = set()
        self._steps: deque[_Marks] = deque(maxlen=2)
        self._watched: dict[str, Watched] = {}
        self._definition = definition
        self.replace_definition(definition)

    def replace_definition(self, definition: Definition) -> None:
        """Another definition is in force: operations that stayed keep what was learnt."""
        names, thresholds = [*definition.operations, POOLED], definition.thresholds
        # Evidence against other thresholds is none.
        kept = self._watched if thresholds == self._definition.thresholds else {}
        self._definition = definition
        self._watched = {
            name: kept.get(name)
            or Watched(
                Guard(thresholds, 3 * len(names)), Baseline(thresholds.p95_ratio), Baseline(thresholds.p95_ratio)
            )
            for name in names
        }
        self._memory.recall_again()

    async def run(self) -> None:
        """Judges until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_S)
                await self.tick()
        finally:
            self._hearing.close()
            self._memory.close()

    async def tick(self) -> None:
        """Looks once at what happened, and judges it."""
        self._ticks += 1
        self._look_at_waiting()
        due = self._due()
        said = Said(self._counting.signals(), self._hanging(), self._counting.histograms(due), due)
        fresh, answers = await self._hearing.take(said)
        now = self._around.clock()
        self._add_durations(said.histograms, answers)
        self._learn(due, now)
        self._judge({name: Counted(*counts) for name, counts in fresh.items()}, now)
        self._memory.tend(now, self._hearing.forget())
        self._forget()
        self._judged_at = now

    # --- looking ---------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, dict[str, Any]]:
        """What the guards say, by operation, for JSON; `(all)` is all together."""
        now, snapshot = self._around.clock(), self._around.snapshot()
        found = {}
        for name, watched in self._watched.items():
            plan = snapshot.plans.get(name) if snapshot is not None else None
            looked_at = Looked(watched, watched.mode if name == POOLED else mode_of(plan), plan)
            found[name] = state_of(looked_at, self._hearing, now, now - self._judged_at)
        return found

    def pace(self, operation: str) -> tuple[float | None, float | None]:
        """P50 of new, and what is too slow for it, in seconds; None: not known."""
        watched = self._watched.get(operation)
        if watched is None:
            return None, None
        return watched.durations.new.quantile(0.5), watched.baseline.limit_s

    # --- counting --------------------------------------------------------------------------------------------------

    def _look_at_waiting(self) -> None:
        """Requests that hang are counted before they end, and asked of old once new is out."""
        now, snapshot = self._around.clock(), self._around.snapshot()
        for known in self._watched.values():
            known.waiting, known.hanging = 0, [0, 0]
        for request in tuple(self._around.on_new):
            operation = request.operation
            watched = self._watched.get(operation or "")
            if operation is None or watched is None:
                continue
            # What has begun to answer is not silent.
            watched.waiting += not request.has_begun
            limit_s = watched.baseline.limit_s
            if limit_s is not None and now - request.began > limit_s:
                watched.hanging[0] += 1
                if not request.is_late:
                    request.is_late = True
                    self._counting.late(operation)
            plan = snapshot.plans.get(operation) if snapshot is not None else None
            if plan is not None and plan.latch is not None and (request.is_late or now - request.began > _PATIENCE_S):
                request.take_back()
        if self._hot:
            self._look_at_old(now)

    def _look_at_old(self, now: float) -> None:
        """What hangs on new is held against what hangs on old, not against what old has answered."""
        for request in tuple(self._around.on_old):
            watched = self._watched.get(request.operation or "")
            if watched is None:
                continue
            limit_s = watched.baseline.limit_s
            if limit_s is not None and now - request.began > limit_s:
                watched.hanging[1] += 1

    def _hanging(self) -> dict[str, list[int]]:
        return {name: watched.hanging for name, watched in self._watched.items() if any(watched.hanging)}

    def _hanging_on_all(self, name: str) -> tuple[int, int]:
        (new, old), (others_new, others_old) = self._watched[name].hanging, self._hearing.hanging(name)
        return new + others_new, old + others_old

    def _due(self) -> list[str]:
        turn = self._ticks % _TURNS
        return [name for at, name in enumerate(self._definition.operations) if at % _TURNS == turn or name in self._hot]

    def _add_durations(self, own: Histograms, answers: list[Heard]) -> None:
        for name, sources in own.items():
            watched = self._watched.get(name)
            if watched is not None:
                watched.durations.take(OWN, sources, is_own=True)
        for heard in answers:
            for process, operations in heard.histograms.items():
                for name, sources in operations.items():
                    watched = self._watched.get(name)
                    if watched is not None:
                        watched.durations.take(process, sources)

    def _learn(self, due: Iterable[str], now: float) -> None:
        unix_s = self._around.unix()
        for name in due:
            watched = self._watched.get(name)
            if watched is None:
                # Another definition came meanwhile.
                continue
            watched.merges += 1
            if watched.note(now, unix_s) and watched.baseline.limit_s is not None:
                self._counting.limits[name] = watched.baseline.limit_s

    def _forget(self) -> None:
        if self._ticks % _CLEANED_EVERY == 0:
            processes = self._hearing.processes
            for watched in self._watched.values():
                watched.durations.keep(processes)

    # --- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, counted: Mapping[str, Counted], now: float) -> None:
        snapshot = self._around.snapshot()
        if snapshot is None:
            return
        everything = self._watched[POOLED]
        served, copied, has_left = [0] * len(FIELDS), NOTHING, SCOPE_ALL in snapshot.latches
        for name in self._definition.operations:
            watched, plan = self._watched[name], snapshot.plans.get(name)
            # What one trip covers is not tripped again, and whoever tripped: after it is re-armed, everybody begins
            # without evidence.
            mode = mode_of(plan)
            has_left |= watched.mode is Mode.JUDGED and mode is not Mode.JUDGED
            watched.enter(mode)
            mine = counted.get(name, NOTHING)
            watched.count(mine)
            if watched.mode is Mode.MIRRORED:
                watched.guard.watch(mine, now)
                copied += mine
            elif watched.mode is Mode.JUDGED and plan is not None and not watched.has_tripped_lately(now):
                _add(served, mine)
                if self._judge_one(name, mine, plan, now):
                    has_left = True
                    snapshot = self._around.snapshot() or snapshot
        self._hot = {name for name, watched in self._watched.items() if watched.guard.latency_evidence >= _HOT}
        if POOLED in self._hot:
            self._hot.update(self._definition.operations)
        modes = {watched.mode for name, watched in self._watched.items() if name != POOLED}
        everything.enter(next((mode for mode in (Mode.JUDGED, Mode.MIRRORED, Mode.OUT) if mode in modes), Mode.IDLE))
        if everything.mode is Mode.MIRRORED:
            everything.guard.learn(copied)
        if has_left:
            # What an operation did that is out is its own: it does not take the others along.
            everything.reset()
        elif everything.mode is Mode.JUDGED:
            self._judge_all(Counted(*served), snapshot, now)

    def _judge_one(self, name: str, counted: Counted, plan: Plan, now: float) -> bool:
        """Judges one operation; returns whether new was taken out, or would have been."""
        watched = self._watched[name]
        scope, limit_s = Scope(ScopeKind.OPERATION, name), watched.baseline.limit_s
        mark = watched.mark(now) if counted.is_bad else None
        found = watched.guard.tick(counted, now, limit_s, mark, lambda excursion: self._confirm(name, excursion, now))
        watched.step(now)
        if found is not None:
            self._tell(watched, trip_of(scope, watched, found, self._hearing), now)
            return True
        patience_s = watched.patience_s(plan)
        if watched.silence.tick(watched.waiting, counted.n, now, patience_s):
            self._tell(watched, silence_of(scope, watched, self._hearing), now)
            return True
        return False

    def _judge_all(self, counted: Counted, snapshot: Snapshot, now: float) -> None:
        """Judges all operations together: what shows in none of them, and what concerns all."""
        everything = self._watched[POOLED]
        everything.count(counted)
        if everything.has_tripped_lately(now):
            return
        judged = {
            name: watched
            for name, watched in self._operations()
            if watched.mode is Mode.JUDGED and not watched.has_tripped_lately(now)
        }
        # Each was held against its own limit; together they have none.
        limit_s = 0.0 if any(watched.baseline.limit_s is not None for watched in judged.values()) else None
        mark = self._mark_all(judged, now) if counted.is_bad else None
        if not everything.guard.latency_evidence:
            self._steps.clear()
        elif not self._steps or now - self._steps[-1][0].at >= STEP_S:
            self._steps.append(self._mark_all(judged, now))
        found = everything.guard.tick(counted, now, limit_s, mark, lambda excursion: self._confirm_all(excursion, now))
        if found is not None:
            self._tell(everything, trip_of(SCOPE_ALL, everything, found, self._hearing), now)
            return
        # What hangs on an operation that is out already says nothing about the others.
        waiting = {name: watched for name, watched in judged.items() if watched.waiting}
        everything.waiting = sum(watched.waiting for watched in waiting.values())
        bounds = [watched.patience_s(snapshot.plans[name]) for name, watched in waiting.items()]
        patience_s = None if None in bounds else max((bound for bound in bounds if bound is not None), default=None)
        if everything.silence.tick(everything.waiting, counted.n, now, patience_s):
            self._tell(everything, silence_of(SCOPE_ALL, everything, self._hearing), now)

    def _mark_all(self, judged: Mapping[str, Watched], now: float) -> _Marks:
        return self._watched[POOLED].mark(now), {name: watched.mark(now) for name, watched in judged.items()}

    def _operations(self) -> Iterable[tuple[str, Watched]]:
        return ((name, watched) for name, watched in self._watched.items() if name != POOLED)

    def _tell(self, watched: Watched, cause: Cause, now: float) -> None:
        watched.tripped_at = now
        self._trip(cause)

    def _confirm(self, name: str, excursion: Excursion, now: float) -> bool | None:
        mark, watched = excursion.mark, self._watched[name]
        if not isinstance(mark, Mark):
            return None
        found = watched.since(mark, self._hanging_on_all(name), now)
        return None if found is None else is_confirmed(found[0], self._definition.thresholds.p95_ratio, found[1])

    def _confirm_all(self, excursion: Excursion, now: float) -> bool | None:
        if not isinstance(excursion.mark, tuple):
            return None
        seen: list[tuple[Concurrent, float]] = []
        at, marks = excursion.mark
        if now - at.at > AT_MOST_S and self._steps:
            marks = self._steps[0][1]
        for name, mark in marks.items():
            watched = self._watched.get(name)
            if watched is None or watched.mode is not Mode.JUDGED or mark.limit_s is None:
                continue
            found = watched.since(mark, self._hanging_on_all(name), now)
            if found is None:
                return None
            seen.append(found)
        return is_confirmed_together(seen, self._definition.thresholds.p95_ratio)


def _add(total: list[int], counted: Counted) -> None:
    if counted is NOTHING:
        return
    for at, name in enumerate(FIELDS):
        total[at] += getattr(counted, name)
