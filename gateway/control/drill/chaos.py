"""Flips: a flag goes to and fro under load; no call may fail, no key may be stuck, no workspace may stay locked."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import asdict
from typing import Final

from gateway.control.acts import Acts, Order
from gateway.control.bodies import DrillBody
from gateway.control.drill.chaos_load import ChaosLoad, Pace
from gateway.control.drill.client import LoadClient
from gateway.control.drill.flag import FlagMovedError, flip_shares, pin, shares_of
from gateway.control.drill.frame import DrillFailedError, Frame, drill_request
from gateway.control.drill.load import Flow, Load
from gateway.control.drill.ports import Kit
from gateway.control.problems import Code, Refused
from gateway.core.chaos import Chaos, ChaosCall, Flip, Judged, calls_of, flip_rows, most_common
from gateway.core.decide import decide
from gateway.core.drill import DrillRequest, series_of
from gateway.core.model import OperationClass, Side, Stage
from gateway.core.refusal import Refusal

_KEYS: Final = 20
_TRIES: Final = 20_000
_AROUND_S: Final = 300.0
_SEEN_S: Final = 10.0
_LOOK_S: Final = 0.1
_DRAIN_S: Final = 40.0
_BESIDE: Final = 20.0
_BESIDE_FROM: Final = 1_000_000
_BESIDE_TRIES: Final = 4000
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
        self._beside: Load | None = None
        self._flips: list[Flip] = []
        self._shares: dict[str, int] = {}
        self._stuck: set[str] = set()
        self._locked: set[str] = set()

    async def _steps(self) -> None:
        await self._claim(self._body.for_s + _AROUND_S)
        await self._phase("preparing")
        await self._go_live()
        calls = self._calls()
        client = LoadClient(self._data_port(), self._deadline_s + 5)
        # What has not gone away by the next flip is no other call any more.
        load = ChaosLoad(client, calls, Pace(self._body.load, self._body.every_s), self._clock)
        self._load = load
        beside = self._requests_on_old()
        if beside:
            self._beside = Load(self._data_port(), [Flow(Side.OLD, _BESIDE, beside)], self._deadline_s + 5, self._clock)
        try:
            await self._flip_through(load, calls)
            await self._phase("checking", "waits for the calls that are under way")
            await load.drain(_DRAIN_S)
            self._note(load, calls)
            # On both sides: a lock that was left behind stands where the key was then.
            await self._check(load, calls)
            await self._flip(calls)
            await self._check(load, calls)
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
        found: list[list[ChaosCall]] = []
        for number in range(_TRIES):
            calls = calls_of(snapshot.definition, self._operation, self._drill, number)
            try:
                is_within = not self._shares or decide(plan, calls[0].request.key).side is Side.NEW
            except Refusal as refusal:
                raise DrillFailedError(f"no request of its own is taken: {refusal}") from refusal
            if is_within:
                found.append(calls)
            if len(found) == _KEYS:
                break
        if not found:
            raise DrillFailedError("no key of its own is within the share that is in force")
        return found

    def _requests_on_old(self) -> list[DrillRequest]:
        """Of keys that stay on old: while all others are on new the detectors must see what is slow on both sides."""
        snapshot = self._acts.snapshot()
        plan = snapshot.plans[self._operation.name]
        made = (
            drill_request(snapshot.definition, self._operation, self._drill, _BESIDE_FROM + number)
            for number in range(_BESIDE_TRIES)
        )
        return list(itertools.islice((one for one in made if decide(plan, one.key).side is Side.OLD), _KEYS))

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
        failures, sent = load.failed.copy(), load.sent
        if self._beside is not None:
            failures[f"{self._operation.name} of keys that stay on old"] = self._beside.failed
            sent += self._beside.sent
        proved = Chaos(
            every_s=self._body.every_s,
            for_s=self._body.for_s,
            keys=len(calls),
            writes=sorted(
                name
                for name in writes
                if self._acts.snapshot().definition.operations[name].op_class is OperationClass.WRITE
            ),
            retried=load.retried,
            failed=most_common(+failures),
            stuck=sorted(self._stuck)[:_KEYS],
            locked=sorted(self._locked)[:_KEYS],
            flips=flip_rows([flip for flip in self._flips if flip.at <= ended_at], ended_at, samples),
        )
        self.report["chaos"] = asdict(proved)
        self.report["requests"] = {"sent": sent, "failed": failures.total(), "late": 0, "failed_before": 0}
        self.report["series"] = asdict(series_of(begun, samples, before_s=0.0, slot_s=_SLOT_S))
        return proved
