"""What the guard asks of the rest of the process, as protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.detect.reports import Heard, Said
from gateway.core.snapshot import Snapshot
from gateway.ports import Clock


class Counting(Protocol):
    """What this worker counts.

    Attributes:
        limits: By operation: seconds above which an answer of new is too slow.
    """

    limits: dict[str, float]

    def signals(self) -> Mapping[str, Sequence[int]]:
        """See `core.detect.reports.Signals`."""
        ...

    def histograms(self, operations: Iterable[str]) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Of these operations; see `core.detect.reports.Histograms`."""
        ...

    def late(self, operation: str) -> None:
        """A request that still runs takes too long already."""
        ...


class Waiting(Protocol):
    """A request that waits for a side."""

    began: float
    is_late: bool
    has_begun: bool

    @property
    def operation(self) -> str | None:
        """Its operation's name."""
        ...

    def take_back(self) -> None:
        """New is out: asks old instead, where that can be."""
        ...


class Exchange(Protocol):
    """What workers tell each other, and what they keep for each other."""

    async def swap(self, said: Said) -> Heard | None:
        """Says what this worker counted, and returns what the others did; None: nobody can be asked."""
        ...

    async def forget(self, names: Iterable[str]) -> None:
        """Workers are gone."""
        ...

    async def learnt(self) -> Mapping[str, object] | None:
        """What guards learnt before, by operation; None: nobody can be asked."""
        ...

    async def keep(self, learnt: Mapping[str, object]) -> None:
        """Keeps what was learnt."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an evaluator looks at.

    Attributes:
        snapshot: The policy in force.
        on_new: Requests that wait for new.
        on_old: Requests that wait for old.
        clock: Monotonic seconds.
        unix: Seconds since the epoch: only for the hour of the week.
    """

    snapshot: Callable[[], Snapshot | None]
    on_new: Iterable[Waiting]
    on_old: Iterable[Waiting]
    clock: Clock
    unix: Callable[[], float]
