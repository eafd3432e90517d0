"""Flips: a flag goes to and fro under load; no call may fail, no key may be stuck, no workspace may stay locked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import asdict
from typing import Final

from gateway.control.acts import Acts, Order
from gateway.control.bodies import DrillBody
from gateway.control.drill.chaos_load import ChaosLoad, Pace
from gateway.control.drill.client import LoadClient
from gateway.control.drill.flag import FlagMovedError, flip_shares, pin, shares_of
from gateway.control.drill.frame import DrillFailedError, Frame, drill_request
from gateway.control.drill.ports import Kit
from gateway.control.problems import Code, Refused
from gateway.core.chaos import Chaos, ChaosCall, Flip, Judged, calls_of, flip_rows, most_common
from gateway.core.decide import decide
from gateway.core.drill import series_of
from gateway.core.model import OperationClass, Side, Stage
from gateway.core.refusal import Refusal

_KEYS: Final = 20
_TRIES: Final = 4000
_AROUND_S: Final = 300.0
_SEEN_S: Final = 10.0
_LOOK_S: Final = 0.1
_DRAIN_S: Final = 40.0
_SLOT_S: Final = 1.0
_CHECKS: Final = 3
_AGAIN_S: Final = 0.5


class ChaosRun(Frame):
    """A drill that flips."""

    def __init__(self, drill: str, body: DrillBody, order: Order, acts: Acts, kit: Kit) -> None:
        """See `Frame`."""
        super().__init__(drill, body, order, acts, kit)
        drill_request(acts.snapshot().definition, self._operation, drill, 0)
        if acts.snapshot().plans[self._operation.name].stage is Stage.RAMPDOWN:
            raise Refused(
                Code.RULE_VIOLATION,
                f"{self._operation.name} is in rampdown: new has everything, and no share is there to flip",
                rule="no_share",
            )
        self._load: ChaosLoad | None = None
        self._beside: ChaosLoad | None = None
        self._flips: list[Flip] = []
        self._shares: dict[str, int] = {}
        self._stuck: set[str] = set()
        self._locked: set[str] = set()

    async def _steps(self) -> None:
        await self._claim(self._body.for_s + _AROUND_S)
        await self._phase("preparing")
        await self._go_live()
        calls = self._calls()
        # What is slow on both sides is nobody's fault: the detectors must see old do the same at the same time.
        beside = self._keys(range(_TRIES, 2 * _TRIES), Side.OLD)
        rate = self._body.load / 2 if beside else self._body.load
        load = self._load = self._load_of(calls, rate)
        self._beside = self._load_of(beside, rate) if beside else None
        try:
            await self._flip_through(load, calls)
            await self._phase("checking", "waits for the calls that are under way")
            await asyncio.gather(*(each.drain(_DRAIN_S) for each in (load, self._beside) if each is not None))
            self._note(load, calls)
            # On both sides: a lock that was left behind stands where the key was then.
            await self._check(load, [*calls, *beside])
            await self._flip(calls)
            await self._check(load, [*calls, *beside])
        except FlagMovedError as moved:
            raise DrillFailedError(str(moved)) from moved
        finally:
            proved = self._note(load, calls)
        if proved.why_failed is not None:
            raise DrillFailedError(proved.why_failed)

    async def _stop_load(self) -> None:
        if self._load is not None:
            await self._load.stop()
        if self._beside is not None:
            await self._beside.stop()

    def _calls(self) -> list[list[ChaosCall]]:
        """Of each key. Where a share is in force its keys are among it; else they are pinned."""
        snapshot = self._acts.snapshot()
        plan = snapshot.plans[self._operation.name]
        shares = shares_of(snapshot.definition, snapshot.policy, self._operation)
        if plan.percent:
            self._shares = shares
        found = self._keys(range(_TRIES), Side.NEW if self._shares else Side.OLD)
        if not found:
            raise DrillFailedError("no key of its own is within the share that is in force")
        return found

    def _keys(self, numbers: range, side: Side) -> list[list[ChaosCall]]:
        """The calls of the first of its own keys that a side answers now."""
        snapshot = self._acts.snapshot()
        plan = snapshot.plans[self._operation.name]

        def belongs(number: int) -> bool:
            made = drill_request(snapshot.definition, self._operation, self._drill, number)
            try:
                return decide(plan, made.key).side is side
            except Refusal as refusal:
                raise DrillFailedError(f"no request of its own is taken: {refusal}") from refusal

        chosen = itertools.islice(filter(belongs, numbers), _KEYS)
        return [calls_of(snapshot.definition, self._operation, self._drill, number) for number in chosen]

    def _load_of(self, calls: list[list[ChaosCall]], rate: float) -> ChaosLoad:
        client = LoadClient(self._data_port(), self._deadline_s + 5)
        # What has not gone away by the next flip is no other call any more.
        return ChaosLoad(client, calls, Pace(rate, self._body.every_s), self._clock)

    # --- flips -----------------------------------------------------------------------------------------------------

    async def _flip_through(self, load: ChaosLoad, calls: list[list[ChaosCall]]) -> None:
        self._flips = [Flip(self._clock(), Side.NEW if self._shares else Side.OLD)]
        if self._shares:
            self._before.shares = self._shares
        else:
            self._before.pins = True
        await self._phase("flipping", "sends")
        load.start()
        if self._beside is not None:
            self._beside.start()
        begun = time.monotonic()
        flips = int(self._body.for_s / self._body.every_s)
        for number in range(1, flips + 1):
            await self._wait(begun + number * self._body.every_s - time.monotonic())
            if number < flips:
                await self._flip(calls)
                said = (
                    f"flip {number} of {flips - 1}: to {self._flips[-1].to}; {sum(load.failed.values())} calls failed"
                )
                await self._phase("flipping", said)

    async def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._fail_if_killed()
            await asyncio.sleep(min(left_s, _LOOK_S))

    async def _flip(self, calls: list[list[ChaosCall]]) -> None:
        to = self._flips[-1].to.other
        # As of then, not as of its answer: workers see it before.
        flip = Flip(self._clock(), to)
        if self._shares:
            epoch = await flip_shares(self._acts, self._order, self._operation, self._shares, to)
        else:
            epoch = await pin(self._acts, self._order, self._operation, [of[0].request.key for of in calls], to)
        self._flips.append(flip)
        await self._until_seen(epoch)

    async def _until_seen(self, epoch: int) -> None:
        """Waits until every worker decides by it."""
        until = time.monotonic() + _SEEN_S
        while time.monotonic() < until:
            behind = [name for name, blob in self._workers().items() if (blob.get("epoch") or 0) < epoch]
            if not behind and self._acts.snapshot().epoch >= epoch:
                return
            await asyncio.sleep(_LOOK_S)
        raise DrillFailedError(f"not every worker decides by a flip {_SEEN_S:g} s after it")

    # --- checks ----------------------------------------------------------------------------------------------------

    async def _check(self, load: ChaosLoad, calls: list[list[ChaosCall]]) -> None:
        """Asks about every key once more, when nothing else is under way."""
        await self._phase("checking", f"{len(calls)} keys on {self._flips[-1].to}")
        await asyncio.gather(*(self._check_key(load, of_key) for of_key in calls))

    async def _check_key(self, load: ChaosLoad, of_key: list[ChaosCall]) -> None:
        plans = self._acts.snapshot().plans
        read, *writes = of_key
        for call in (read, *writes[:1]):
            key = call.request.key
            begun = time.monotonic()
            side, judged, code = await load.ask(call)
            for _ in range(_CHECKS):
                if judged is not Judged.BUSY:
                    break
                await asyncio.sleep(_AGAIN_S)
                side, judged, code = await load.ask(call)
            if judged is Judged.BUSY:
                self._locked.add(f"{key} ({call.operation.name}: {code})")
                continue
            took_s, deadline_s = time.monotonic() - begun, call.operation.deadlines.total_s
            belongs = decide(plans[call.operation.name], key).side
            if judged is Judged.FAILED or (deadline_s is not None and took_s > deadline_s):
                self._stuck.add(f"{key} ({call.operation.name}: {code})")
            elif side != belongs:
                said = f"answered by {side}" if side else "nobody says who answers: response_headers.side is off"
                self._stuck.add(f"{key} ({call.operation.name}: {said}, belongs to {belongs})")

    def _note(self, load: ChaosLoad, calls: list[list[ChaosCall]]) -> Chaos:
        """Puts what is known by now into the report."""
        begun = self._flips[0].at if self._flips else self._clock()
        samples = list(load.samples)
        ended_at = max([begun, *(sample.ended_at for sample in samples)])
        writes = {call.operation.name for of_key in calls for call in of_key}
        loads = [each for each in (load, self._beside) if each is not None]
        failures = sum((each.failed for each in loads), Counter[str]())
        proved = Chaos(
            every_s=self._body.every_s,
            for_s=self._body.for_s,
            keys=len(calls),
            writes=sorted(
                name
                for name in writes
                if self._acts.snapshot().definition.operations[name].op_class is OperationClass.WRITE
            ),
            retried=sum(each.retried for each in loads),
            failed=most_common(failures),
            stuck=sorted(self._stuck)[:_KEYS],
            locked=sorted(self._locked)[:_KEYS],
            flips=flip_rows([flip for flip in self._flips if flip.at <= ended_at], ended_at, samples),
        )
        self.report["chaos"] = asdict(proved)
        sent = sum(each.sent for each in loads)
        self.report["requests"] = {"sent": sent, "failed": failures.total(), "late": 0, "failed_before": 0}
        self.report["series"] = asdict(series_of(begun, samples, before_s=0.0, slot_s=_SLOT_S))
        return proved
