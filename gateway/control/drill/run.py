"""A drill with a fault, from its preparation to its report: arm, fault, trip, zero on every worker, recovery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from statistics import median
from typing import Final

from gateway.control.bodies import ChangeBody
from gateway.control.drill.frame import DrillFailedError, Frame, drill_request, killed_meanwhile
from gateway.control.drill.load import Flow, Load
from gateway.control.moves import move_operation
from gateway.core import force
from gateway.core.decide import decide, may_force
from gateway.core.drill import (
    DrillOrder,
    DrillRequest,
    Fault,
    Sample,
    WorkerNote,
    is_rehearsed,
    series_of,
    times_of,
)
from gateway.core.model import Ppm, Side
from gateway.core.refusal import Refusal
from gateway.core.snapshot import settled_policies

ZERO_LIMIT_S: Final = 30.0
"""Longest time from a trip to no request on new; the promise of the product."""
_TRIP_LIMIT_S: Final[Mapping[Fault, float]] = {
    Fault.ERRORS: 60.0,
    Fault.SLOW: 90.0,
    Fault.HANG: 60.0,
    Fault.DOWN: 60.0,
    Fault.MISMATCH: 120.0,
}
"""Of every fault; `flips` is none."""
_RECOVERY_LIMIT_S: Final = 60.0
_BEGINS_IN_S: Final = 1.0
_LOOK_S: Final = 0.1
_QUIET_S: Final = 1.0
_BEFORE_ARMING_S: Final = 60.0
_KEYS: Final = 20
_TRIES: Final = 4000
_FORCE_S: Final = 1800
_LEAST_OLD: Final = 20.0
_MIRROR: Final = Ppm(200_000)
_LEAST_COMPARED: Final = 20
_GOOD_IN_A_ROW: Final = 10
_LATE_FACTOR: Final = 3
_LATE_LEAST_S: Final = 0.05


class DrillRun(Frame):
    """A drill with a fault."""

    _load: Load | None = None
    _out_at = 0.0

    # --- the steps -------------------------------------------------------------------------------------------------

    async def _steps(self) -> None:
        waiting = await self._claim(self._body.arm_s + _BEFORE_ARMING_S)
        await self._make_ready()
        await self._start_load()
        await self._arm()
        order = await self._begin_fault(waiting)
        tripped_at: float | None = None
        try:
            tripped_at = await self._trip(order)
            await self._zero(order)
            await self._recover()
        except DrillFailedError:
            # As far as it came: what its requests saw says more than the step that did not end.
            self._report_times(order, tripped_at, await self._drills.notes(self._drill))
            raise
        await self._drills.end(self._drill)
        self._report_times(order, tripped_at, await self._drills.notes(self._drill))
        to_zero_s = self.report["times"]["to_zero_s"]
        if to_zero_s is None or to_zero_s - (self.report["times"]["to_trip_s"] or 0) > ZERO_LIMIT_S:
            raise DrillFailedError(f"some worker sent requests to new more than {ZERO_LIMIT_S:g} s after the trip")

    async def _make_ready(self) -> None:
        await self._phase("preparing")
        await self._go_live()
        snapshot = self._acts.snapshot()
        mirror = settled_policies(snapshot.definition, snapshot.policy)[self._operation.name].mirror
        if self._body.fault is Fault.MISMATCH and mirror < _MIRROR:
            self._before.mirror = mirror
            await self._phase("preparing", "reads are mirrored for the drill")
            change = ChangeBody.model_construct(mirror_percent=_MIRROR, reason=self._why)
            await move_operation(self._acts, self._order, self._operation.name, change)

    async def _start_load(self) -> None:
        if not self._body.load:
            return
        url = self._data_port()
        flows = [
            Flow(Side.NEW, self._body.load, self._requests(Side.NEW)),
            Flow(Side.OLD, max(_LEAST_OLD, self._body.load / 5), self._requests(Side.OLD)),
        ]
        self._load = Load(url, flows, self._deadline_s + 5, self._clock)
        self._load.start()

    def _requests(self, side: Side) -> list[DrillRequest]:
        """Requests whose keys a side answers by their own; where no key does, ones that force it."""
        snapshot = self._acts.snapshot()
        plan = snapshot.plans[self._operation.name]
        found: list[DrillRequest] = []
        for number in range(_TRIES):
            made = drill_request(snapshot.definition, self._operation, self._drill, number)
            try:
                if decide(plan, made.key).side is side:
                    found.append(made)
            except Refusal:
                break
            if len(found) == _KEYS:
                return found
        if found:
            return found
        if self._kit.force_secret is None or not may_force(plan):
            raise DrillFailedError(f"no key of its own is answered by {side}, and none may be forced there")
        value = force.sign(self._kit.force_secret, snapshot.definition.migration, side, int(time.time()) + _FORCE_S)
        first = _TRIES if side is Side.OLD else 0
        made_up = (drill_request(snapshot.definition, self._operation, self._drill, first + n) for n in range(_KEYS))
        return [replace(made, headers={**made.headers, "crossfade-force": value}) for made in made_up]

    async def _arm(self) -> None:
        """Waits until the detectors of every worker can judge."""
        began = self._clock()
        compared_before = self._compared()
        await self._phase("arming", "waits for the workers")
        while True:
            self._fail_if_killed()
            why = self._why_not_armed(compared_before)
            if why is None:
                break
            if self._clock() - began > self._body.arm_s:
                raise DrillFailedError(f"not armed after {self._body.arm_s:g} s: {why}")
            await self._phase("arming", why)
            await asyncio.sleep(0.5)
        self.report["armed_after_s"] = round(self._clock() - began, 1)

    def _why_not_armed(self, compared_before: int) -> str | None:
        guards = {name: blob.get("guards", {}).get(self._operation.name, {}) for name, blob in self._workers().items()}
        if not guards:
            return "no worker reports"
        for name, guard in guards.items():
            if guard.get("state") != "armed":
                return f"{name}: {guard.get('state', 'unknown')}: {guard.get('why') or ''}"
        compared = self._compared() - compared_before
        if self._body.fault is Fault.MISMATCH and compared < _LEAST_COMPARED:
            return f"{compared} of {_LEAST_COMPARED} comparisons"
        return None

    def _compared(self) -> int:
        """By clients and by this drill: the detectors see both."""
        totals, name = self._kit.counters.totals(), self._operation.name
        found = [totals.get(kind, {}).get(name, {}) for kind in ("comparisons", "rehearsed")]
        return sum(int(counts.get(result, 0)) for counts in found for result in ("match", "mismatch"))

    async def _begin_fault(self, waiting: DrillOrder) -> DrillOrder:
        await self._drills.tell_time()
        now = self._clock()
        limit_s = _TRIP_LIMIT_S[self._body.fault] + ZERO_LIMIT_S + self._deadline_s
        order = replace(waiting, begins_at=now + _BEGINS_IN_S, ends_at=now + _BEGINS_IN_S + limit_s)
        await self._drills.change(order)
        await self._phase("fault")
        return order

    async def _trip(self, order: DrillOrder) -> float:
        """Waits for the trip; returns when it was seen here."""
        limit_s = _TRIP_LIMIT_S[self._body.fault]
        while self._clock() < order.begins_at + limit_s:
            policy = await self._acts.store.read()
            if policy is not None:
                latches = self._latches(policy.latches)
                for latch in sorted(latches, key=lambda latch: is_rehearsed(latch, self._drill)):
                    self.report |= {"scope": str(latch.scope), "trip": latch.reason}
                    if not is_rehearsed(latch, self._drill):
                        raise killed_meanwhile(latch)
                    return self._clock()
            await asyncio.sleep(_LOOK_S)
        raise DrillFailedError(f"nothing tripped within {limit_s:g} s: new went on with {self._body.fault}")

    async def _zero(self, order: DrillOrder) -> None:
        """Waits until new is out on every worker, and none started anything on it for a moment."""
        await self._phase("zero")
        until = self._clock() + ZERO_LIMIT_S
        while self._clock() < until:
            notes = {note.worker: note for note in await self._drills.notes(self._drill)}
            lacking = [name for name in self._workers() if name not in notes or notes[name].out_at is None]
            quiet_s = self._clock() - max((note.last_at or order.begins_at for note in notes.values()), default=0)
            if notes and not lacking and quiet_s >= _QUIET_S:
                self._out_at = max(note.out_at or 0.0 for note in notes.values())
                return
            await asyncio.sleep(_LOOK_S)
        raise DrillFailedError(f"new is not out on every worker {ZERO_LIMIT_S:g} s after the trip")

    async def _recover(self) -> None:
        """Waits until the drill's own requests succeed again."""
        await self._phase("recovering")
        load = self._load
        if load is None:
            return
        until, since = self._clock() + _RECOVERY_LIMIT_S, load.sent
        while self._clock() < until:
            is_good = load.is_well(since=since, answers=_GOOD_IN_A_ROW)
            if is_good and not load.is_owed(since=self._out_at):
                return
            await asyncio.sleep(_LOOK_S)
        raise DrillFailedError(f"requests still fail {_RECOVERY_LIMIT_S:g} s after new was taken out")

    async def _stop_load(self) -> None:
        if self._load is not None:
            await self._load.stop()

    def _report_times(self, order: DrillOrder, seen_at: float | None, notes: list[WorkerNote]) -> None:
        live = self._workers()
        notes = [note for note in notes if note.worker in live]
        # Whoever trips takes new out of its own requests first; the latch tells the time by the clock of its machine.
        outs = [note.out_at for note in notes if note.out_at is not None]
        tripped_at = None if seen_at is None else min([seen_at, *outs])
        samples = self._judged(order, self._load) if self._load is not None else []
        begun = order.begins_at
        self.report["times"] = asdict(times_of(begun, tripped_at, notes, samples))
        self.report["workers"] = [
            {
                "id": note.worker,
                "out_after_s": None if note.out_at is None else round(note.out_at - begun, 3),
                "last_on_new_after_s": None if note.last_at is None else round(note.last_at - begun, 3),
                "faults": note.faults,
            }
            for note in notes
        ]
        if self._load is not None:
            after = [sample for sample in samples if sample.ended_at >= begun]
            failed = sum(sample.is_failed for sample in after)
            self.report["requests"] = {
                "sent": self._load.sent,
                "failed": failed,
                "late": sum(sample.is_late for sample in after),
                "failed_before": self._load.failed - failed,
            }
            self.report["series"] = asdict(series_of(begun, samples))

    def _judged(self, order: DrillOrder, load: Load) -> list[Sample]:
        """The samples, with what the fault made late."""
        samples = list(load.samples)
        if self._body.fault not in (Fault.SLOW, Fault.HANG):
            return samples
        usual = [s.ended_at - s.sent_at for s in samples if s.side == Side.NEW and s.ended_at < order.begins_at]
        limit_s = max(_LATE_LEAST_S, _LATE_FACTOR * median(usual)) if usual else _LATE_LEAST_S
        return [replace(s, is_late=s.ended_at - s.sent_at > limit_s and s.sent_at >= order.begins_at) for s in samples]
