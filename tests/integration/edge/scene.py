"""A data plane in the test's own loop: the real edge and upstream client between a raw client and raw sides."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.core.file_changes import initial_policy
from gateway.core.model import SCOPE_ALL, Latch, LatchKind, Scope, Side
from gateway.core.snapshot import Snapshot, compile_snapshot
from gateway.edge.express import ExpressLane
from gateway.edge.general import GeneralLane
from gateway.edge.limits import EdgeLimits
from gateway.edge.listener import EdgeConfig, Listener
from gateway.edge.plane import LaneClock, LaneSettings, Plane
from gateway.edge.protocol import EdgeProtocol
from gateway.edge.server import DrainSettings, EdgeServer
from gateway.settings.load import load_migration
from gateway.telemetry.counters import RequestCounters
from gateway.upstream import SideUpstream, UpstreamLimits
from tests.support.sides import Client, StubSide, client
from tests.support.waiting import until
from tests.support.worker import bound_socket

EXPRESS: ContextVar[bool] = ContextVar("EXPRESS", default=True)
"""Whether the data planes of the running test have an express lane; set for each test by `conftest.lane`."""


@dataclass
class Source:
    """Where the lane finds its snapshot."""

    current: Snapshot | None


@dataclass
class Edge:
    """A running data plane.

    Attributes:
        port: Its data port.
        sides: The stub sides.
        counters: What was observed.
        source: Holds the snapshot.
        server: The server.
        plane: What both lanes share.
    """

    port: int
    sides: dict[Side, StubSide]
    counters: RequestCounters
    source: Source
    server: EdgeServer
    plane: Plane

    def kill(self) -> None:
        """Kills everything, as a snapshot with the latch does."""
        before = self.source.current
        assert before is not None
        latch = Latch(SCOPE_ALL, LatchKind.KILL, "test", "test", datetime.now(UTC))
        self.source.current = compile_snapshot(before.definition, before.policy, external={SCOPE_ALL: latch})

    @property
    def forwarded(self) -> list[bytes]:
        """Request lines that reached a side."""
        return [request.line for side in self.sides.values() for request in side.requests]

    def counted(self) -> dict[str, Any]:
        """The counters."""
        return self.counters.blob()

    async def talk(self, data: bytes, *, pieces: int | None = None) -> bytes:
        """Sends bytes on a fresh connection and returns everything until the gateway closes, or answered all."""
        async with client(self.port) as c:
            step = pieces or len(data)
            for at in range(0, len(data), step):
                await c.send(data[at : at + step])
                await asyncio.sleep(0)
            return await c.rest()


@dataclass
class Wish:
    """How a data plane is set up."""

    limits: EdgeLimits = field(default_factory=EdgeLimits)
    lane: LaneSettings = field(default_factory=lambda: LaneSettings(auth=b"internal", force_secret=b"force"))
    drain: DrainSettings = field(default_factory=DrainSettings)
    latches: Mapping[Scope, Latch] = field(default_factory=dict)
    upstream: UpstreamLimits = field(default_factory=UpstreamLimits)
    express: bool = field(default_factory=lambda: EXPRESS.get())


@asynccontextmanager
async def edge(
    directory: Path, sides: dict[Side, StubSide], migration: Mapping[str, Any], wish: Wish | None = None
) -> AsyncIterator[Edge]:
    """Runs a data plane for a migration given as plain data."""
    wish = wish or Wish()
    file = directory / "migration.yaml"
    file.write_text(json.dumps(migration))
    loaded = load_migration(file)
    policy = initial_policy(loaded.definition, loaded.policy, "lineage")
    source = Source(compile_snapshot(loaded.definition, policy, external=wish.latches))
    counters = RequestCounters()
    listener = Listener(wish.limits, counters.refused)
    upstreams = {side: SideUpstream(loaded.definition.sides[side], wish.upstream) for side in Side}
    clock = LaneClock(asyncio.get_running_loop().time, time.time, lambda: listener.date, random.Random(7).getrandbits)
    plane = Plane(source, upstreams, counters, wish.lane, clock)
    listener.express = ExpressLane(plane)
    listener.is_express_on = wish.express
    server = EdgeServer(EdgeConfig(GeneralLane(plane), listener, EdgeProtocol), wish.drain)
    sock = bound_socket()
    port = sock.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    await until(lambda: server.started)
    try:
        yield Edge(port, sides, counters, source, server, plane)
    finally:
        server.listener.drain(0)
        for connection in tuple(server.listener.connections):
            connection.abort()
        server.drain(linger=False)
        await serving
        for upstream in upstreams.values():
            await upstream.aclose()


def outcomes(plane: Edge) -> dict[str, int]:
    """How requests ended, over all operations and sides."""
    total: dict[str, int] = {}
    for sides in plane.counted()["operations"].values():
        for cell in sides.values():
            for outcome, count in cell["outcomes"].items():
                total[outcome] = total.get(outcome, 0) + count
    return total


def answers_in(data: bytes) -> list[int]:
    """Status codes of the answers in a byte stream, each of known length or without a body."""
    statuses = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, f"not an answer: {data[:200]!r}"
        lines = head.split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        statuses.append(status)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        if fields.get(b"transfer-encoding") == b"chunked":
            end = rest.index(b"0\r\n\r\n") + 5
        else:
            end = int(fields.get(b"content-length", b"0"))
        data = rest[end:]
    return statuses


__all__ = ["Client", "Edge", "Source", "Wish", "answers_in", "edge", "outcomes"]
