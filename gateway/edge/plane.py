"""What all requests of a worker share, whichever lane they take: where decisions come from, where requests go.

It must not know a single request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.core.model import Side
from gateway.core.snapshot import Snapshot
from gateway.ports import Drilled, Floor, Observer, Shadow, Upstream


class SnapshotSource(Protocol):
    """Where the current snapshot is read from."""

    @property
    def current(self) -> Snapshot | None:
        """The snapshot in force, or None before there is one."""
        ...


class OnNew(Protocol):
    """A request that waits for new.

    Attributes:
        began: Monotonic seconds.
        is_late: It was counted as too slow already.
        has_begun: Its answer comes already.
    """

    began: float
    is_late: bool
    has_begun: bool

    @property
    def operation(self) -> str | None:
        """The operation's name."""
        ...

    @property
    def request_id(self) -> bytes:
        """The request's name."""
        ...

    def take_back(self) -> None:
        """New is out: asks old instead, where that can be."""
        ...


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What the lanes need besides the snapshot.

    Attributes:
        auth: The internal token, or None.
        force_secret: Signs `Crossfade-Force`, or None: then none is valid.
        in_flight: Requests carried at once; more are shed.
        says_side: Whether answers carry `Crossfade-Side`.
        says_request_id: Whether answers carry `X-Request-Id`.
        body_read_s: Longest time for the whole of a body that is read to find an operation or a key in it. The silence
            between two bytes is bounded by the connection; this bounds a client that drips.
        safety_net: Whether a read that new has failed is served by old, where both work on one store.
    """

    auth: bytes | None = None
    force_secret: bytes | None = None
    in_flight: int = 4096
    says_side: bool = True
    says_request_id: bool = True
    body_read_s: float = 120.0
    safety_net: bool = True


@dataclass(frozen=True, slots=True)
class LaneClock:
    """Time and entropy, which core takes as arguments.

    Attributes:
        monotonic: Seconds for durations.
        unix: Seconds since the epoch.
        date: The current `Date`, kept by a timer.
        entropy: Random bits; `entropy(n)` gives n of them.
    """

    monotonic: Callable[[], float]
    unix: Callable[[], float]
    date: Callable[[], bytes]
    entropy: Callable[[int], int]


class Plane:
    """What all requests of a worker share, whichever lane they take.

    Attributes:
        source: Gives the snapshot.
        sides: The two upstreams; replaced as a whole when the definition changes.
        observer: Is told what happened.
        settings: Fixed for the life of the process.
        clock: Time and entropy.
        shadow: Mirrors reads; None: nobody does.
        in_flight: Requests being carried.
        on_new: Of them, those that wait for new.
        on_old: Likewise for old.
        floor: Hears at once of answers and absences of new, or None.
        drill: Stands in the way of new, or None.
    """

    __slots__ = (
        "clock",
        "drill",
        "floor",
        "in_flight",
        "observer",
        "on_new",
        "on_old",
        "settings",
        "shadow",
        "sides",
        "source",
    )

    def __init__(
        self,
        source: SnapshotSource,
        sides: Mapping[Side, Upstream],
        observer: Observer,
        settings: LaneSettings,
        clock: LaneClock,
        shadow: Shadow | None = None,
    ) -> None:
        self.source = source
        self.sides = sides
        self.observer = observer
        self.settings = settings
        self.clock = clock
        self.shadow = shadow
        self.in_flight = 0
        self.on_new: set[OnNew] = set()
        self.on_old: set[OnNew] = set()
        self.floor: Floor | None = None
        self.drill: Drilled | None = None
