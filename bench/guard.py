"""From a fault of new to the last request on new, on a real `crossfade up` with two workers.

    .venv/bin/python -m bench.guard [--rate N] [--fault NAME]…

Requests come at a rate whether or not the ones before were answered; 90 % of the keys are on new. Latency needs 30 s of
traffic before it is judged, so `slow` and `hang` begin later. Where nobody listens, no stub sees what was sent: there
the last request counts that old did not answer. Everything is kept in bench/results/guard.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from bench.processes import ROOT
from bench.report import machine
from gateway.core.model import Side
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, live, migration, stub_sides
from tests.support.up import Up, running_up

_BROKEN: Final = b"HTTP/1.1 500 broken\r\ncontent-length: 0\r\n\r\n"
_HEALTHY_S: Final = 0.06
_SLOW_S: Final = 0.3
_WATCHED_S: Final = 12.0
_WARM_S: Final = {"errors": 5.0, "down": 5.0, "slow": 42.0, "hang": 42.0}
_LEFT_OUT_S: Final = 1.0
_WITHOUT_REDIS_S: Final = 2.0
_KEYS: Final = 500
RESULTS: Final = ROOT / "bench" / "results" / "guard.json"


@dataclass(frozen=True, slots=True)
class Case:
    """What is broken.

    Attributes:
        fault: Of new.
        writes: Of the group; `shared` has a safety net.
        has_redis: Whether Redis answers meanwhile.
    """

    fault: str
    writes: str
    has_redis: bool = True


CASES: Final = (
    *(Case(fault, writes) for fault in _WARM_S for writes in ("none", "shared")),
    *(Case(fault, "none", has_redis=False) for fault in ("down", "errors")),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        at: When it was sent.
        status: What the client got: a status, or why there was none.
        seconds: How long that took.
    """

    at: float
    status: str
    seconds: float


@dataclass
class _Scene:
    """Both sides, and what they were asked."""

    fault: str = ""
    last_on_new: float = 0.0
    asked: list[Asked] = field(default_factory=list)

    def script(self, stub: StubSide) -> None:
        """Lets a side answer as the fault says."""

        async def serve(peer: Peer) -> None:
            while True:
                await peer.receive_request()
                fault = self.fault if stub.side is Side.NEW else ""
                if stub.side is Side.NEW:
                    self.last_on_new = time.monotonic()
                if fault == "hang":
                    await asyncio.Event().wait()
                await asyncio.sleep(_SLOW_S if fault == "slow" else _HEALTHY_S)
                await peer.send(_BROKEN if fault == "errors" else answer(stub.side.encode()))

        stub.script = serve

    async def ask(self, port: int, number: int) -> None:
        """One request on a connection of its own."""
        at = time.monotonic()
        try:
            async with client(port) as c:
                status = str((await c.ask(get("/items/1", f"x-key: k{number % _KEYS}"))).status)
        except (OSError, asyncio.IncompleteReadError) as exc:
            status = type(exc).__name__
        self.asked.append(Asked(at, status, time.monotonic() - at))

    async def load(self, port: int, rate: float) -> None:
        """Requests at a rate."""
        running: set[asyncio.Task[None]] = set()
        begun = time.monotonic()
        for number in itertools.count():
            task = asyncio.create_task(self.ask(port, number))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(max(0.0, begun + (number + 1) / rate - time.monotonic()))


async def measure(case: Case, rate: float) -> dict[str, Any]:
    """Breaks new; what came of it."""
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as home:
        async with stub_sides() as sides:
            scene = _Scene()
            for stub in sides.values():
                scene.script(stub)
            content = live(migration(sides), 90)
            content["groups"]["items"]["writes"] = case.writes
            for operation in content["operations"].values():
                operation["deadline_s"] = 10
            async with running_up(Path(home) / "data", content) as up:
                loading = asyncio.create_task(scene.load(up.port("gateway"), rate))
                await asyncio.sleep(_WARM_S[case.fault])
                with _redis_of(up, is_away=not case.has_redis):
                    await asyncio.sleep(0 if case.has_redis else _WITHOUT_REDIS_S)
                    begun = await _break(scene, sides, case.fault)
                    await asyncio.sleep(_WATCHED_S)
                loading.cancel()
                with suppress(asyncio.CancelledError):
                    await loading
                why = await _why(up) if case.has_redis else ""
    # What is asked last may be cut off by the end of everything.
    end = begun + _WATCHED_S - _LEFT_OUT_S
    after = [asked for asked in scene.asked if asked.at + asked.seconds >= begun and asked.at < end]
    failed = [asked for asked in after if asked.status != "200"]
    last = max((asked.at for asked in failed), default=begun) if case.fault == "down" else scene.last_on_new
    return asdict(case) | {
        "last_on_new_s": round(max(0.0, last - begun), 2),
        "asked": len(after),
        "failed": len(failed),
        "statuses": dict(Counter(asked.status for asked in failed)),
        "slowest_s": round(max(asked.seconds for asked in after), 2),
        "why": why,
    }


async def _break(scene: _Scene, sides: dict[Side, StubSide], fault: str) -> float:
    begun = time.monotonic()
    if fault == "down":
        server = sides[Side.NEW].server
        assert server is not None
        await server.aclose()
    scene.fault = fault
    return begun


@contextmanager
def _redis_of(up: Up, *, is_away: bool) -> Iterator[None]:
    """Redis accepts connections and answers nothing, or everything is as it was."""
    if not is_away:
        yield
        return
    pid = up.pids["redis"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def _why(up: Up) -> str:
    headers = {"Authorization": f"Bearer {up.token}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
        kills = (await http.get(f"{up.runtime['control']}/v1/status")).json()["kills"]
    return "; ".join(f"{kill['scope']}: {kill['reason']}" for kill in kills) or "no trip"


def said(found: dict[str, Any]) -> str:
    """A measurement in a line."""
    redis = "" if found["has_redis"] else ", Redis stopped"
    return (
        f"{found['fault']:7} writes: {found['writes']:7}{redis} last request on new {found['last_on_new_s']:5.2f} s "
        f"after the fault; {found['failed']} of {found['asked']} clients saw a failure {found['statuses'] or ''}, the "
        f"slowest answer took {found['slowest_s']} s; {found['why']}"
    )


async def _main(rate: float, faults: list[str]) -> None:
    stored: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = [found for found in stored.get("cases", []) if faults and found["fault"] not in faults]
    for case in CASES:
        if faults and case.fault not in faults:
            continue
        kept.append(await measure(case, rate))
        print(said(kept[-1]), flush=True)
    order = [asdict(case) for case in CASES]
    kept.sort(key=lambda found: order.index({name: found[name] for name in order[0]}))
    content = {**stored, "machine": machine(), "rate": rate, "cases": kept}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=110.0, help="requests a second")
    parser.add_argument("--fault", action="append", choices=list(_WARM_S), default=[], help="only this one; repeatable")
    options = parser.parse_args()
    asyncio.run(_main(options.rate, options.fault))


if __name__ == "__main__":
    main()
