"""The loop that judges: four times a second on every worker, with no leader to fail; the first to trip wins.

What it decides is done here before any network call. Where Redis is away it judges what this worker sees alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import structlog

from gateway.core.detect.cusum import PROFILES, Excursion
from gateway.core.detect.floors import Silence
from gateway.core.detect.guard import Counted, Guard, GuardState, Trip
from gateway.core.detect.latency import Baseline, Concurrent, is_confirmed
from gateway.core.detect.record import Baseline as OldMeanwhile
from gateway.core.detect.record import Cause
from gateway.core.histogram import Histogram
from gateway.core.model import SCOPE_ALL, Definition, Scope, ScopeKind, Stage
from gateway.core.snapshot import Plan, Snapshot
from gateway.guard.merging import Histograms, Merge, Signals, merge_histograms
from gateway.ports import Clock

TICK_S: Final = 0.25
_HISTOGRAMS_EVERY: Final = 4
_BASELINE_EVERY_S: Final = 5.0
_HOT: Final = 0.25
"""Evidence from which on histograms are merged at every tick."""
_MERGES: Final = 2
"""Merges after which all workers have told what they saw since an excursion began."""
_PATIENCE_S: Final = 1.0
"""How long a request that new was asked before it was taken out may still wait for it, where nobody knows the usual."""
_GUARDED: Final = (Stage.LIVE, Stage.RAMPDOWN)
_POOLED: Final = "(all)"
"""Stands for all operations together; none can have this name."""
_LOCAL: Final = "local"
_REHEARSED: Final = "rehearsed"

_log = structlog.get_logger("crossfade.guard")


class Counting(Protocol):
    """What this worker counts.

    Attributes:
        limits: By operation: seconds above which an answer of new is too slow.
    """

    limits: dict[str, float]

    def signals(self) -> Mapping[str, list[int]]:
        """See `merging.Signals`."""
        ...

    def histograms(self) -> Histograms:
        """See `merging.Histograms`."""
        ...

    def late(self, operation: str) -> None:
        """A request that still runs takes too long already."""
        ...


class Waiting(Protocol):
    """A request that waits for new."""

    began: float
    is_late: bool

    @property
    def operation(self) -> str | None:
        """Its operation's name."""
        ...

    def take_back(self) -> None:
        """New is out: asks old instead, where that can be."""
        ...


class Exchange(Protocol):
    """What workers tell each other."""

    async def swap(self, signals: Signals, histograms: Histograms | None) -> Heard | None:
        """Says what this worker counted, and returns what all did; None: nobody can be asked.

        Args:
            signals: Of this worker.
            histograms: Likewise, now and then.
        """
        ...

    async def forget(self, names: Iterable[str]) -> None:
        """Workers are gone."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """What all workers said.

    Attributes:
        signals: By process: a number that grows, and its counts.
        histograms: By process; None where they were not asked for.
    """

    signals: Mapping[str, tuple[int, Signals]]
    histograms: Mapping[str, Histograms] | None


@dataclass(slots=True)
class _Mark:
    """What was known when an excursion began.

    Attributes:
        new: Cumulative.
        old: Likewise.
        old_n: Requests that had ended on old.
        old_errors: Of them, failures.
        merges: How often histograms were merged until then.
        old_later: Of old, when it was first asked whether the excursion is borne out: by then all of it is under way.
    """

    new: Histogram
    old: Histogram
    old_n: int
    old_errors: int
    merges: int
    old_later: Histogram | None = None


@dataclass(slots=True)
class _Watched:
    """One operation, or all together.

    Attributes:
        guard: Its detectors.
        baseline: What old does for clients.
        stand_in: What it does, a drill's requests included.
        silence: Requests without any answer.
        new: Cumulative, of the last merge.
        old: Likewise.
        old_n: Requests that have ended on old.
        old_errors: Of them, failures.
        waiting: Requests on their way to new, on this worker.
    """

    guard: Guard
    baseline: Baseline
    stand_in: Baseline
    silence: Silence = field(default_factory=Silence)
    new: Histogram = field(default_factory=Histogram)
    old: Histogram = field(default_factory=Histogram)
    old_n: int = 0
    old_errors: int = 0
    waiting: int = 0

    @property
    def limit_s(self) -> float | None:
        """Longer is too slow; None while too little is known."""
        return self.stand_in.limit_s if self.baseline.limit_s is None else self.baseline.limit_s

    def note_old(self, rehearsed: Histogram, now: float) -> None:
        """Learns what old does from what clients asked it; from a drill's requests only where there is nothing else.

        Those are answered faster than clients' are, and would make them look slow long after the drill.
        """
        self.baseline.note(self.old - rehearsed, now)
        self.stand_in.note(self.old, now)


class Evaluator:
    """Judges new for one worker."""

    def __init__(
        self,
        definition: Definition,
        counting: Counting,
        exchange: Exchange,
        snapshot: Callable[[], Snapshot | None],
        on_new: Iterable[Waiting],
        trip: Callable[[Cause], None],
        clock: Clock,
    ) -> None:
        """Judges nothing yet.

        Args:
            definition: From the file.
            counting: What this worker counts.
            exchange: With the others.
            snapshot: The policy in force.
            on_new: Requests that wait for new; changes while it is looked at from outside the loop never happens.
            trip: Takes new out of a scope, locally first.
            clock: Monotonic seconds.
        """
        self._counting = counting
        self._exchange = exchange
        self._snapshot = snapshot
        self._on_new = on_new
        self._trip = trip
        self._clock = clock
        self._merge = Merge()
        self._local = Merge()
        self._ticks = 0
        self._noted_at = 0.0
        self._seq = 0
        self._is_local = False
        self._is_hot = False
        self._merges = 0
        self._watched: dict[str, _Watched] = {}
        self._definition = definition
        self.replace_definition(definition)

    def replace_definition(self, definition: Definition) -> None:
        """Another definition is in force: operations that stayed keep what was learnt."""
        names, thresholds = [*definition.operations, _POOLED], definition.thresholds
        # Evidence against other thresholds is none.
        kept = self._watched if thresholds == self._definition.thresholds else {}
        self._definition = definition
        profile = PROFILES[thresholds.profile]
        self._watched = {
            name: kept.get(name)
            or _Watched(
                Guard(thresholds, profile, 3 * len(names)),
                Baseline(thresholds.p95_ratio),
                Baseline(thresholds.p95_ratio),
            )
            for name in names
        }

    async def run(self) -> None:
        """Judges until it is cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._count_late()
            await self._hear()

    def states(self) -> dict[str, dict[str, Any]]:
        """What the guards say, by operation, for JSON."""
        now, snapshot = self._clock(), self._snapshot()
        found = {}
        for name, watched in self._watched.items():
            if name == _POOLED:
                continue
            state, why = watched.guard.state(now)
            plan = snapshot.plans.get(name) if snapshot is not None else None
            if plan is None or (plan.stage not in _GUARDED and state is not GuardState.TRIPPED):
                state, why = GuardState.NO_DATA, "its stage sends nothing to new that clients wait for"
            found[name] = {
                "state": state.value,
                "why": why if not self._is_local else f"{why or 'armed'}; this worker alone: Redis does not answer",
                "evidence_percent": round(100 * watched.guard.evidence, 1),
            }
        return found

    def pace(self, operation: str) -> tuple[float | None, float | None]:
        """P50 of new, and what is too slow for it, in seconds; None: not known."""
        watched = self._watched.get(operation)
        if watched is None:
            return None, None
        return watched.new.quantile(0.5), watched.limit_s

    # ---------------------------------------------------------------------------------------------------------------

    def _count_late(self) -> None:
        """Requests that hang are counted before they end, and asked of old once new is out."""
        now, snapshot = self._clock(), self._snapshot()
        for known in self._watched.values():
            known.waiting = 0
        for request in tuple(self._on_new):
            operation = request.operation
            watched = self._watched.get(operation or "")
            if operation is None or watched is None:
                continue
            watched.waiting += 1
            limit_s = watched.limit_s
            if not request.is_late and limit_s is not None and now - request.began > limit_s:
                request.is_late = True
                self._counting.late(operation)
            plan = snapshot.plans.get(operation) if snapshot is not None else None
            if plan is not None and plan.latch is not None and (request.is_late or now - request.began > _PATIENCE_S):
                request.take_back()

    async def _hear(self) -> None:
        self._ticks += 1
        signals = self._counting.signals()
        # Every time as soon as something is wrong: who is asked to confirm must know what both sides do now.
        with_histograms = self._ticks % _HISTOGRAMS_EVERY == 0 or self._is_hot
        histograms = self._counting.histograms() if with_histograms else None
        heard = await self._exchange.swap(signals, histograms)
        now = self._clock()
        self._seq += 1
        # Kept up to date in any case: it goes on from here when Redis goes away, and counts nothing twice.
        alone = self._local.take({_LOCAL: (self._seq, signals)}, now)
        if heard is None:
            self._is_local = True
            counted = alone
            if histograms is not None:
                self._note(merge_histograms({_LOCAL: histograms}), now)
        else:
            counted = self._merge.take(heard.signals, now)
            if self._is_local:
                # What the others said meanwhile was partly judged here already.
                self._is_local, counted = False, {}
            if heard.histograms is not None:
                self._note(merge_histograms(heard.histograms), now)
            gone = self._merge.forget(now)
            if gone:
                await self._exchange.forget(gone)
        self._judge(counted, now)

    def _note(self, merged: Mapping[str, Mapping[str, Histogram]], now: float) -> None:
        """Takes the histograms; learns from time to time what old does."""
        self._merges += 1
        is_due = now - self._noted_at >= _BASELINE_EVERY_S
        if is_due:
            self._noted_at = now
        for name, sides in merged.items():
            watched = self._watched.get(name)
            if watched is None:
                continue
            watched.old, watched.new = sides.get("old", watched.old), sides.get("new", watched.new)
            if is_due:
                watched.note_old(sides.get(_REHEARSED, Histogram()), now)
                if watched.limit_s is not None:
                    self._counting.limits[name] = watched.limit_s

    def _judge(self, counted: Mapping[str, Counted], now: float) -> None:
        snapshot = self._snapshot()
        if snapshot is None:
            return
        pooled, has_tripped, waiting = Counted(), False, 0
        for name, plan in snapshot.plans.items():
            watched = self._watched.get(name)
            if watched is None:
                continue
            mine = counted.get(name, Counted())
            if plan.latch is not None:
                # Whoever tripped: after it is re-armed, everybody begins without evidence.
                watched.guard.reset()
                continue
            if plan.stage not in _GUARDED:
                watched.guard.learn(mine)
                continue
            pooled += mine
            # What hangs on an operation that is out already says nothing about the others.
            waiting += watched.waiting
            has_tripped |= self._judge_one(Scope(ScopeKind.OPERATION, name), watched, mine, now, plan)
        self._is_hot = any(watched.guard.evidence >= _HOT for watched in self._watched.values())
        everything = self._watched[_POOLED]
        everything.waiting = waiting
        if has_tripped or SCOPE_ALL in snapshot.latches or all(plan.latch for plan in snapshot.plans.values()):
            # What one operation did is its own: it does not take the others along.
            everything.guard.reset()
            return
        self._judge_one(SCOPE_ALL, everything, pooled, now, None)

    def _judge_one(self, scope: Scope, watched: _Watched, counted: Counted, now: float, plan: Plan | None) -> bool:
        """Judges one operation, or all; returns whether new is taken out."""
        limit_s = watched.limit_s
        # Of all operations each was held against its own limit; together they have none of their own.
        known_s = limit_s if plan is not None else 0.0
        watched.old_n += counted.old_n
        watched.old_errors += counted.old_errors
        mark = _Mark(watched.new, watched.old, watched.old_n, watched.old_errors, self._merges)
        found = watched.guard.tick(counted, now, known_s, mark, lambda excursion: self._confirm(watched, excursion))
        if found is not None:
            self._trip(self._cause(scope, watched, found, now))
            return True
        if watched.silence.tick(watched.waiting, counted.n, now, limit_s):
            why = f"silence: {watched.waiting} requests wait for new, and none was answered for a while"
            self._trip(replace(self._seen(watched, now), scope=scope, signal="silence", reason=why, limit_s=limit_s))
            return True
        return False

    def _cause(self, scope: Scope, watched: _Watched, trip: Trip, now: float) -> Cause:
        found, mark = trip.excursion, trip.excursion.mark
        assert isinstance(mark, _Mark)
        meanwhile, new = watched.old - mark.old, watched.new - mark.new
        p95_s = meanwhile.quantile(0.95)
        return replace(
            self._seen(watched, now),
            scope=scope,
            signal=trip.signal.value,
            reason=trip.reason(),
            since=found.since,
            excursion=found,
            threshold=trip.threshold,
            limit_s=trip.limit_s,
            new_p95_s=new.quantile(0.95),
            baseline=OldMeanwhile(
                watched.old_n - mark.old_n,
                watched.old_errors - mark.old_errors,
                None if p95_s is None else round(1000 * p95_s, 3),
            ),
        )

    def _seen(self, watched: _Watched, now: float) -> Cause:
        """What is the same for every cause at this moment."""
        return Cause(
            SCOPE_ALL,
            "",
            "",
            evidence=watched.guard.scores(),
            dispersion=watched.guard.dispersion,
            workers=1 if self._is_local else self._merge.known,
            blind=0 if self._is_local else self._merge.blind(now),
            is_alone=self._is_local,
        )

    def _confirm(self, watched: _Watched, excursion: Excursion) -> bool | None:
        limit_s = watched.limit_s
        mark = excursion.mark
        if limit_s is None or not isinstance(mark, _Mark) or watched is self._watched[_POOLED]:
            # All together: each operation's own limit was confirmed by nobody, and so this one does not trip alone.
            return None
        if self._merges - mark.merges < _MERGES:
            # What the others saw since it began is not here yet.
            return None
        ratio = self._definition.thresholds.p95_ratio
        if mark.old_later is None:
            mark.old_later = watched.old
        lately = watched.old - mark.old_later
        seen = Concurrent(watched.new - mark.new, watched.old - mark.old, excursion.k, lately)
        return is_confirmed(seen, ratio, limit_s)
