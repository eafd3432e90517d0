"""What a request is decided by, without a socket: a policy in force, a clock that stands, nobody behind the sides."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random

from gateway.core.model import Headers, OperationPolicy, Stage, Writes
from gateway.core.snapshot import Snapshot, compile_snapshot
from gateway.edge.arrival import Arrival
from gateway.edge.deciding import Deciding
from gateway.edge.plane import LaneClock, LaneSettings, Plane
from gateway.telemetry.counters import RequestCounters
from tests.unit.core.migrations import at, everywhere, workspace

READ = b"/v1/git/status"
HEADERS: Headers = [(b"host", b"git.example"), (b"x-agent-id", b"ada"), (b"x-task-id", b"1")]


@dataclass
class Source:
    """Where the snapshot is read from."""

    current: Snapshot | None


def snapshot(
    writes: Writes = Writes.SHARED, shares: OperationPolicy | None = None, codes: Collection[str] = ()
) -> Snapshot:
    """Every operation at the same shares, by default all of it on new."""
    definition = workspace(writes)
    operations = {
        name: replace(operation, failure_codes=frozenset(codes)) for name, operation in definition.operations.items()
    }
    definition = replace(definition, operations=operations)
    return compile_snapshot(definition, everywhere(shares or at(Stage.LIVE, 100), definition))


def plane(now: Snapshot | None) -> Plane:
    """A plane without sides."""
    clock = LaneClock(lambda: 0.0, lambda: 0.0, lambda: b"", Random(7).getrandbits)
    return Plane(Source(now), {}, RequestCounters(), LaneSettings(), clock)


def arrival(target: bytes = READ, method: str = "POST", headers: Headers = HEADERS, length: int = 0) -> Arrival:
    """A request."""
    return Arrival(method, target, list(headers), "192.0.2.1", "http", "1.1", length, has_body=length > 0)


def deciding(now: Snapshot | None, came: Arrival | None = None) -> Deciding:
    """On a request, by default the read."""
    return Deciding(plane(now), came or arrival())
