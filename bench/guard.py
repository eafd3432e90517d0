"""From a fault of new to the last request on new, on a real `crossfade up` with two workers.

    .venv/bin/python -m bench.guard [--rate N]

Requests come at a rate whether or not the ones before were answered; 90 % of the keys are on new. Latency needs 30 s of
traffic before it is judged, so `slow` and `hang` begin later.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, answer
from tests.support.sides import StubSide, client, get, live, migration, stub_sides
from tests.support.up import Up, running_up

_BROKEN: Final = b"HTTP/1.1 500 broken\r\ncontent-length: 0\r\n\r\n"
_HEALTHY_S: Final = 0.02
_SLOW_S: Final = 0.1
_WATCHED_S: Final = 12.0
_WARM_S: Final = {"errors": 5.0, "down": 5.0, "slow": 42.0, "hang": 42.0}
_KEYS: Final = 500


@dataclass
class _Scene:
    """Both sides, and what they were asked."""

    fault: str = ""
    last_on_new: float = 0.0
    statuses: list[str] = field(default_factory=list)

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
        try:
            async with client(port) as c:
                found = await c.ask(get("/items/1", f"x-key: k{number % _KEYS}"))
                self.statuses.append(str(found.status))
        except (OSError, asyncio.IncompleteReadError) as exc:
            self.statuses.append(type(exc).__name__)

    async def load(self, port: int, rate: float) -> None:
        """Requests at a rate."""
        running: set[asyncio.Task[None]] = set()
        begun = time.monotonic()
        for number in itertools.count():
            task = asyncio.create_task(self.ask(port, number))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(max(0.0, begun + (number + 1) / rate - time.monotonic()))


async def _measure(fault: str, writes: str, rate: float) -> str:
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as home:
        async with stub_sides() as sides:
            scene = _Scene()
            for stub in sides.values():
                scene.script(stub)
            content = live(migration(sides), 90)
            content["groups"]["items"]["writes"] = writes
            for operation in content["operations"].values():
                operation["deadline_s"] = 10
            async with running_up(Path(home) / "data", content) as up:
                loading = asyncio.create_task(scene.load(up.port("gateway"), rate))
                await asyncio.sleep(_WARM_S[fault])
                begun, before = time.monotonic(), len(scene.statuses)
                if fault == "down":
                    server = sides[Side.NEW].server
                    assert server is not None
                    await server.aclose()
                scene.fault = fault
                await asyncio.sleep(_WATCHED_S)
                loading.cancel()
                with suppress(asyncio.CancelledError):
                    await loading
                after = scene.statuses[before:]
                failed = sum(status != "200" for status in after)
                took = max(0.0, scene.last_on_new - begun)
                return (
                    f"{fault:7} writes: {writes:7} last request on new {took:5.2f} s after the fault; "
                    f"{failed} of {len(after)} clients saw a failure; {await _why(up)}"
                )


async def _why(up: Up) -> str:
    headers = {"Authorization": f"Bearer {up.token}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
        kills = (await http.get(f"{up.runtime['control']}/v1/status")).json()["kills"]
    return "; ".join(f"{kill['scope']}: {kill['reason']}" for kill in kills) or "no trip"


async def _main(rate: float) -> None:
    for fault in _WARM_S:
        for writes in ("none", "shared"):
            print(await _measure(fault, writes, rate), flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=110.0, help="requests a second")
    asyncio.run(_main(parser.parse_args().rate))


if __name__ == "__main__":
    main()
