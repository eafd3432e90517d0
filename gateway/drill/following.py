"""Follows what Redis says of drills: begins a fault, ends it, notes what this worker saw.

Ends by the clock where nobody says so any more: a control process that is gone leaves no fault behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from gateway.core.drill import PREFIX, DrillOrder, Fault, WorkerNote, slow_delay_s
from gateway.core.snapshot import Snapshot
from gateway.drill.faulty import FaultySide
from gateway.ports import Upstream

_IDLE_S: Final = 0.25
_BUSY_S: Final = 0.05
_NEAR_S: Final = 2.0
_TAIL_S: Final = 2.0
"""Workers tell each other four times a second what they counted: so long a fault may still trip after its end."""

_log = structlog.get_logger("crossfade.drill")


class Orders(Protocol):
    """Where orders stand."""

    async def order(self) -> tuple[bool, DrillOrder | None]:
        """Whether somebody could be asked, and the order that stands."""
        ...

    async def note(self, drill: str, note: WorkerNote) -> None:
        """Tells what this worker saw; best effort."""
        ...


class DrillFollower:
    """Implements `ports.Drilled` and `ports.Rehearsals` for one worker.

    Attributes:
        order: The drill that is on, or about to begin; None: none.
    """

    def __init__(
        self,
        worker: str,
        orders: Orders,
        pace: Callable[[str], tuple[float | None, float | None]],
        snapshot: Callable[[], Snapshot | None],
        switched: Callable[[DrillOrder | None], None],
        clock: Callable[[], float],
    ) -> None:
        """Follows nothing before `run`.

        Args:
            worker: Its name.
            orders: Where they stand.
            pace: What is normal for an operation: P50 of new, and what is too slow for it; in seconds.
            snapshot: The policy in force.
            switched: Is told of the order whose fault begins, and with None of its end.
            clock: Unix seconds, the same for everybody; not what this machine takes for the time.
        """
        self.order: DrillOrder | None = None
        self._worker = worker
        self._orders = orders
        self._pace = pace
        self._snapshot = snapshot
        self._switched = switched
        self._clock = clock
        self._is_on = False
        self._ended: tuple[DrillOrder, float] | None = None
        self._delay_s = 0.0
        self._begun_at: float | None = None
        self._out_at: float | None = None
        self._last_at: float | None = None
        self._faults = 0

    @property
    def active(self) -> DrillOrder | None:
        """The drill whose fault is on."""
        return self.order if self._is_on else None

    @property
    def blamed(self) -> DrillOrder | None:
        """The drill that a trip may be laid to: its fault is on, or was a moment ago. One that only stands is not."""
        if self._is_on:
            return self.order
        if self._ended is not None and self._clock() - self._ended[1] < _TAIL_S:
            return self._ended[0]
        return None

    def instead(self, operation: str, key: str | None, side: Upstream) -> Upstream:
        """See `ports.Drilled`."""
        order = self.order
        if order is None or operation != order.operation:
            return side
        if self._is_on:
            self._last_at = self._clock()
            if order.fault is not Fault.MISMATCH and order.touches(key):
                self._faults += 1
                return FaultySide(side, order.fault, self._delay_s)
        return side

    def compares(self, operation: str, key: str | None) -> bool:
        """Whether the sides' answers are compared for a drill, whatever the sides can know of each other.

        Before its fault begins, for its own keys alone: the detector has to see that they agree.
        """
        order = self.order
        if order is None or order.fault is not Fault.MISMATCH or order.operation != operation:
            return False
        return order.touches(key) if self._is_on else order.owns(key)

    def rehearses(self, operation: str, key: str | None) -> bool:
        """Whether what comes of a comparison is a drill's: of keys that one has made up, or while answers are altered.

        Those of clients are altered as well, as far as the drill's share goes, and some are still on their way when its
        fault has ended.
        """
        if key is not None and key.startswith(PREFIX):
            return True
        order = self.blamed
        return order is not None and order.fault is Fault.MISMATCH and order.operation == operation

    def policy_changed(self) -> None:
        """The policy in force was replaced: notes when new is out."""
        order, snapshot = self.order, self._snapshot()
        if order is None or snapshot is None or not self._is_on or self._out_at is not None:
            return
        plan = snapshot.plans.get(order.operation)
        if plan is None or plan.latch is not None:
            self._out_at = self._clock()

    async def run(self) -> None:
        """Follows until it is cancelled."""
        while True:
            await self.look()
            is_near = self.order is not None and self.order.begins_at - self._clock() < _NEAR_S
            await asyncio.sleep(_BUSY_S if is_near else _IDLE_S)

    async def look(self) -> None:
        """Does what is ordered now, and tells what was seen."""
        # Shielded: a call that is cut off at the moment of its time limit may take the cancellation with it.
        could_ask, order = await asyncio.shield(self._orders.order())
        now = self._clock()
        if not could_ask:
            order = self.order
        if order is not None and now >= order.ends_at:
            order = None
        before = self.active
        self._take(order)
        self._switch(now)
        if before is not None and not self._is_on:
            self._ended = before, now
        if self.order is not None:
            await asyncio.shield(self._orders.note(self.order.drill, self._note()))

    def _take(self, order: DrillOrder | None) -> None:
        known = self.order
        if order is not None and known is not None and order.drill == known.drill:
            self.order = order
            return
        if order is not known:
            self.order = order
            self._begun_at = self._out_at = self._last_at = None
            self._faults = 0

    def _switch(self, now: float) -> None:
        order = self.order
        is_on = order is not None and order.is_on(now)
        if is_on == self._is_on and (order is None or self._begun_at is not None or not is_on):
            return
        self._is_on = is_on
        if order is not None and is_on:
            self._delay_s = slow_delay_s(*self._pace(order.operation))
            self._begun_at = now
            _log.warning("drill_begun", drill=order.drill, fault=order.fault.value, operation=order.operation)
            self._switched(order)
        else:
            _log.warning("drill_ended")
            self._switched(None)

    def _note(self) -> WorkerNote:
        return WorkerNote(self._worker, self._begun_at, self._out_at, self._last_at, self._faults)
