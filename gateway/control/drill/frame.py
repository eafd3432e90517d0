"""What all drills share: a report, the policy that is moved and put back, requests of their own, an end in any case.

Whatever happens, the fault ends and the policy is put back: here where this process lives, by the order's own end and
by `restore` at the next start where it does not.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import structlog

from gateway.control.acts import Acts, Order
from gateway.control.bodies import ChangeBody, DrillBody
from gateway.control.drill.ports import Kit
from gateway.control.drill.restoring import Before, move, restore
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Code, Refused
from gateway.core.drill import DrillOrder, DrillRequest, NoDrillRequestError, Times, key_part, request_for
from gateway.core.model import Definition, Latch, Operation, OperationClass, Scope, Stage
from gateway.core.percent import percent_of
from gateway.core.snapshot import Plan, Snapshot, covers, settled_policies

DEADLINE_S: Final = 30.0
"""Of an operation that has none."""
GUARDED: Final = (Stage.LIVE, Stage.RAMPDOWN)
_FRESH_S: Final = 5.0
_NEVER_S: Final = 86_400.0

_log = structlog.get_logger("crossfade.drill")


class DrillFailedError(Exception):
    """A step of a drill did not come to its end; says why."""


class Frame(ABC):
    """One drill.

    Attributes:
        report: As it stands, for JSON.
    """

    def __init__(self, drill: str, body: DrillBody, order: Order, acts: Acts, kit: Kit) -> None:
        """Prepares; nothing is changed yet.

        Args:
            drill: Its random name.
            body: What is asked for.
            order: Who asks.
            acts: Changes the policy.
            kit: What it works with.

        Raises:
            Refused: It cannot be drilled.
        """
        self._drill = drill
        self._body = body
        self._order = order
        self._acts = acts
        self._kit = kit
        self._drills = kit.drills
        self._clock = kit.drills.now
        self._before = Before()
        snapshot = acts.snapshot()
        self._operation = _plan_for(snapshot, body.operation).operation
        self._deadline_s = self._operation.deadlines.total_s or DEADLINE_S
        if body.load:
            drill_request(snapshot.definition, self._operation, drill, 0)
        self.report: dict[str, Any] = {
            "id": drill,
            "phase": "preparing",
            "fault": body.fault.value,
            "operation": self._operation.name,
            "load": body.load,
            "share_percent": percent_of(body.share_percent),
            "by": order.caller.name,
            "reason": body.reason,
            "at": acts.now().isoformat(timespec="milliseconds"),
            "passed": None,
            "why": None,
            "armed_after_s": None,
            "times": asdict(Times()),
            "scope": None,
            "trip": None,
            "workers": [],
            "requests": None,
            "restored": None,
            "series": None,
            "chaos": None,
            "before": asdict(self._before),
        }

    async def run(self) -> None:
        """The drill. Ends by itself, whatever happens; the report says how."""
        passed, why = False, None
        try:
            await self._steps()
            passed = True
        except DrillFailedError as failed:
            why = str(failed)
        except Refused as refused:
            why = refused.message
        except StoreUnavailableError as exc:
            why = f"{exc}"
        except asyncio.CancelledError:
            why = "it was ended by hand, or control was"
            raise
        except Exception as exc:
            _log.exception("drill_failed", drill=self._drill)
            why = f"it failed here ({type(exc).__name__}); the log of control says why"
        finally:
            await asyncio.shield(self._end(passed, why))

    @abstractmethod
    async def _steps(self) -> None:
        """The drill itself.

        Raises:
            DrillFailedError: It failed.
        """

    @abstractmethod
    async def _stop_load(self) -> None:
        """Sends nothing more."""

    async def _claim(self, lasts_s: float) -> DrillOrder:
        """Gives an order that only stands, so that no other drill begins."""
        await self._drills.tell_time()
        now = self._clock()
        # Only as long as it may take: whoever gave the order may be gone by then.
        order = DrillOrder(
            self._drill,
            self._body.fault,
            self._operation.name,
            self._body.share_percent,
            begins_at=now + _NEVER_S,
            ends_at=now + lasts_s,
        )
        if not await self._drills.begin(order):
            raise DrillFailedError("another drill is on")
        return order

    async def _phase(self, name: str, why: str | None = None) -> None:
        if self.report["phase"] != name:
            _log.info("drill", drill=self._drill, phase=name)
        self.report |= {"phase": name, "why": why, "before": asdict(self._before)}
        await self._drills.keep(self.report)

    async def _go_live(self) -> None:
        """Takes the operation where new can be asked, at no share: only the drill's own requests go there."""
        snapshot = self._acts.snapshot()
        stage = settled_policies(snapshot.definition, snapshot.policy)[self._operation.name].stage
        if stage not in GUARDED:
            self._before.stage = stage.value
            await self._phase("preparing", f"{self._operation.name} goes to live at 0 %, for the drill's own keys")
            change = ChangeBody.model_construct(stage=Stage.LIVE, reason=self._why)
            await move(self._acts, self._order, self._operation.name, change)

    @property
    def _why(self) -> str:
        return f"drill {self._drill}: {self._body.reason}"[:500]

    def _workers(self) -> dict[str, Mapping[str, Any]]:
        return dict(self._kit.counters.fresh(_FRESH_S))

    def _data_port(self) -> str:
        for _, blob in sorted(self._workers().items()):
            if blob.get("address"):
                return str(blob["address"])
        raise DrillFailedError("no worker has said where its data port is; is a gateway running?")

    def _latches(self, latches: Mapping[Scope, Latch]) -> list[Latch]:
        """Those under which the operation is."""
        definition = self._acts.snapshot().definition
        return [latch for scope, latch in latches.items() if covers(definition, scope, self._operation)]

    def _fail_if_killed(self) -> None:
        for latch in self._latches(self._acts.snapshot().latches):
            raise killed_meanwhile(latch)

    async def _end(self, passed: bool, why: str | None) -> None:
        await self._stop_load()
        problems = await restore(self._acts, self._order, self._kit, self.report | {"before": asdict(self._before)})
        if problems:
            passed, why = False, "; ".join([*([why] if why else []), *problems])
        self.report |= {"passed": passed, "why": why, "restored": not problems, "phase": "ended"}
        try:
            await self._acts.note(self._order, "drill_passed" if passed else "drill_failed", self._operation.name)
            await self._drills.keep(self.report)
        except StoreUnavailableError as exc:
            _log.error("drill_not_kept", drill=self._drill, why=str(exc))
        _log.info("drill", drill=self._drill, phase="ended", passed=passed, why=why)


def _plan_for(snapshot: Snapshot, wanted: str | None) -> Plan:
    """The operation that is drilled.

    Raises:
        Refused: There is none such, or none that can be.
    """
    if wanted is None:
        reads = [plan for plan in snapshot.plans.values() if plan.operation.op_class is OperationClass.READ]
        guarded = [plan for plan in reads if plan.stage in GUARDED]
        if not reads:
            raise Refused(Code.RULE_VIOLATION, "no operation is a read; name the operation to drill", rule="no_read")
        plan = (guarded or reads)[0]
    elif wanted in snapshot.plans:
        plan = snapshot.plans[wanted]
    else:
        raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {wanted[:80]!r}; crossfade status lists them")
    name = plan.operation.name
    if plan.latch is not None:
        raise Refused(
            Code.RULE_VIOLATION,
            f"{name} is killed; nothing could trip",
            rule="killed",
            legal=f"crossfade rearm {plan.latch.scope} --reason …",
        )
    if plan.stage is Stage.COMPLETE:
        raise Refused(Code.RULE_VIOLATION, f"{name} is complete: nothing trips there any more", rule="complete")
    return plan


def drill_request(definition: Definition, operation: Operation, drill: str, number: int) -> DrillRequest:
    """A request of its own.

    Raises:
        Refused: None can be made up.
    """
    try:
        return request_for(definition, operation, key_part(drill, number))
    except NoDrillRequestError as exc:
        raise Refused(Code.RULE_VIOLATION, str(exc), rule="no_key") from exc


def killed_meanwhile(latch: Latch) -> DrillFailedError:
    """Says that a drill ends because somebody else has taken new out."""
    return DrillFailedError(f"{latch.scope} was killed by {latch.by} meanwhile: {latch.reason}")
