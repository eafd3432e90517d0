"""What drills need from the rest of the process, as protocols; the composition root plugs the real parts in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gateway.control.ports import Counters
from gateway.core.audit import AuditEntry
from gateway.core.drill import DrillOrder, DrillRequest, WorkerNote
from gateway.core.model import Latch, Operation


class Drills(Protocol):
    """Where drills are kept. Every method may raise `StoreUnavailableError`."""

    def now(self) -> float:
        """Unix seconds by the clock that everybody goes by, as of the last `tell_time`."""
        ...

    async def tell_time(self) -> None:
        """Brings that clock up to date."""
        ...

    async def begin(self, order: DrillOrder) -> bool:
        """Gives an order; False while another one stands."""
        ...

    async def change(self, order: DrillOrder) -> None:
        """Replaces the order."""
        ...

    async def end(self, drill: str) -> None:
        """Takes the order of a drill back."""
        ...

    async def take(self, drill: str, holder: str) -> bool:
        """Makes a process the one that runs a drill, for some seconds; False while another one does."""
        ...

    async def hold(self, drill: str, holder: str) -> bool:
        """Says that a drill's process is still there; False when it is not that one's any more."""
        ...

    async def release(self, drill: str) -> None:
        """Takes a drill from whoever runs it, who ends it then."""
        ...

    async def notes(self, drill: str) -> list[WorkerNote]:
        """What the workers saw so far."""
        ...

    async def keep_trip(self, seen: Latch, kept: Latch, entry: AuditEntry) -> bool:
        """Puts another latch in the place of one of the same scope; False when that is not what stands there."""
        ...

    async def keep(self, report: dict[str, Any]) -> None:
        """Keeps a report; one of the same drill is replaced."""
        ...

    async def reports(self) -> list[dict[str, Any]]:
        """All that are kept, newest first."""
        ...


class NewSide(Protocol):
    """New, asked past the data port: no policy and no fault stand in between."""

    async def trouble(self, operation: Operation, request: DrillRequest, within_s: float) -> str | None:
        """Asks once; returns what was wrong with the answer, or None.

        Args:
            operation: Says which answers blame new.
            request: What to ask.
            within_s: Longest wait.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kit:
    """What a drill works with.

    Attributes:
        drills: Where drills are kept.
        new: Asked before a drill gives anything back to it.
        counters: What the workers say.
        force_secret: Of `Crossfade-Force`, or None.
    """

    drills: Drills
    new: NewSide
    counters: Counters
    force_secret: bytes | None
