"""The drill that runs, and those that ended. One at a time, over all control processes of a migration."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Any, Final

import structlog

from gateway.control.acts import Acts, Order
from gateway.control.auth import Caller
from gateway.control.bodies import DrillBody
from gateway.control.drill.chaos import ChaosRun
from gateway.control.drill.frame import Frame
from gateway.control.drill.ports import Kit
from gateway.control.drill.restoring import restore
from gateway.control.drill.run import DrillRun
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Code, Refused, unavailable
from gateway.core.drill import Fault
from gateway.core.roles import Role

_NAME_BYTES: Final = 4
_HOLDER_BYTES: Final = 8
_BEAT_S: Final = 1.5
_ABORT_S: Final = 30.0
_LOOK_S: Final = 0.2
_ENDED: Final = "ended"

_log = structlog.get_logger("crossfade.drill")


class DrillDesk:
    """Begins drills, and says how they stand."""

    def __init__(self, kit: Kit) -> None:
        """None runs.

        Args:
            kit: What they work with.
        """
        self._kit = kit
        self._drills = kit.drills
        # Tells this process from others that hold drills.
        self._holder = secrets.token_hex(_HOLDER_BYTES)
        self._run: Frame | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self, acts: Acts, order: Order, body: DrillBody) -> dict[str, Any]:
        """Begins a drill; returns its first state.

        Raises:
            Refused: It cannot be drilled, or one is on.
        """
        if self._run is not None and self._task is not None and not self._task.done():
            raise Refused(
                Code.RULE_VIOLATION,
                f"drill {self._run.report['id']} is on; wait for its end",
                rule="one_drill",
                legal=f"crossfade drill --end {self._run.report['id']}",
            )
        drill = secrets.token_hex(_NAME_BYTES)
        kind = ChaosRun if body.fault is Fault.FLIPS else DrillRun
        run = kind(drill, body, order, acts, self._kit)
        try:
            await self._drills.take(drill, self._holder)
            await acts.note(order, "drill", f"{run.report['operation']} ({body.fault}): {body.reason}"[:500])
            await self._drills.keep(run.report)
        except StoreUnavailableError as exc:
            raise unavailable(f"nothing was begun: {exc}") from exc
        self._run = run
        self._task = asyncio.create_task(self._hold(drill, run))
        return run.report

    async def _hold(self, drill: str, run: Frame) -> None:
        """Runs a drill for as long as it is this process's own."""
        running, is_ending = asyncio.create_task(run.run()), False
        try:
            while not (await asyncio.wait([running], timeout=_BEAT_S))[0]:
                # A Redis that is away for longer than the hold lasts takes it: somebody else may have ended the drill.
                with suppress(StoreUnavailableError):
                    if not is_ending and not await self._drills.hold(drill, self._holder):
                        is_ending = running.cancel()
        finally:
            # Once: a second time would cut off what puts everything back.
            if not is_ending:
                running.cancel()
            await asyncio.wait([running])
            with suppress(StoreUnavailableError):
                await self._drills.release(drill)

    async def all(self) -> list[dict[str, Any]]:
        """Every drill that is kept, newest first.

        Raises:
            Refused: They cannot be read.
        """
        try:
            return await self._drills.reports()
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc

    async def one(self, drill: str) -> dict[str, Any]:
        """One drill.

        Raises:
            Refused: There is none such.
        """
        if self._run is not None and self._run.report["id"] == drill:
            return self._run.report
        for report in await self.all():
            if report["id"] == drill:
                return report
        raise Refused(Code.UNKNOWN_DRILL, f"there is no drill {drill[:80]!r}; crossfade drill --list names them")

    async def abort(self, drill: str) -> dict[str, Any]:
        """Ends a drill at once; what it moved is put back when this returns.

        Raises:
            Refused: There is none such, or who runs it does not end it.
        """
        report = await self.one(drill)
        if self._run is not None and self._run.report is report and self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            return report
        until = time.monotonic() + _ABORT_S
        while report.get("phase") != _ENDED:
            # Another control runs it, and looks whether it still may.
            try:
                await self._drills.release(drill)
            except StoreUnavailableError as exc:
                raise unavailable(str(exc)) from exc
            if time.monotonic() > until:
                raise unavailable(f"drill {drill} does not end; look again: crossfade drill --list")
            await asyncio.sleep(_LOOK_S)
            report = await self.one(drill)
        return report

    async def tidy(self, acts: Acts) -> None:
        """Puts back what drills left behind whose control process is gone; what another one runs is left alone.

        Raises:
            Refused: They cannot be read.
            StoreUnavailableError: What was done cannot be kept.
        """
        for report in await self.all():
            is_own = self._run is not None and self._run.report["id"] == report["id"]
            if report.get("phase") == _ENDED or is_own or not await self._drills.take(report["id"], self._holder):
                continue
            order = Order(Caller(f"drill:{report['id']}", Role.APPROVER), f"drill-{report['id']}")
            problems = await restore(acts, order, self._kit, report)
            why = "; ".join(["control ended in the middle of it", *problems])
            await self._drills.keep({**report, "phase": _ENDED, "passed": False, "why": why, "restored": not problems})
            _log.warning("drill_tidied", drill=report["id"], why=why)

    async def aclose(self) -> None:
        """Ends the drill that runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
