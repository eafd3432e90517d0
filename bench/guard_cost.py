"""What detectors and signals cost a worker, beside what a request costs it.

    .venv/bin/python -m bench.guard_cost [--rate N]

Two measurements. The loop that judges runs here as in a worker: the shipped evaluator and counters, 17 operations that
all have traffic, signals of another worker too, a real Redis; its CPU for each tick, times four, is what a second of it
costs. A real `crossfade up` with two workers then answers requests at a rate; its workers' CPU is what that costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.guard import RESULTS
from bench.processes import ROOT, cpu_of
from gateway.core.detect.reports import Said
from gateway.core.file_changes import initial_policy
from gateway.core.model import Definition, Side, Stage
from gateway.core.outcome import Outcome
from gateway.core.snapshot import compile_snapshot
from gateway.guard.evaluator import TICK_S, Evaluator
from gateway.guard.ports import Surroundings
from gateway.settings import load_migration
from gateway.state.connect import connect
from gateway.state.signals import SignalStore
from gateway.telemetry.counters import RequestCounters
from tests.support.redis_process import running_redis
from tests.support.sides import Client, get, live, migration, stub_sides
from tests.support.up import running_up

_TICKS: Final = 400
_CONNECTIONS: Final = 20
_MEASURED_S: Final = 15.0
_IDLE_S: Final = 10.0
_OPERATIONS: Final = 17


@dataclass
class _Waits:
    """A request that waits for new."""

    operation: str | None
    began: float
    is_late: bool = False
    has_begun: bool = False

    def take_back(self) -> None:
        """Nobody waits."""


def _definition() -> tuple[Definition, Any]:
    """The shipped migration with as many operations, all live."""
    loaded = load_migration(ROOT / "config" / "migration.yaml")
    some = dict(loaded.definition.operations)
    first = next(iter(some.values()))
    for number in range(_OPERATIONS - len(some)):
        name = f"more.{number}"
        some[name] = replace(first, name=name, rest=(), mcp=None)
    definition = replace(loaded.definition, operations=some)
    policy = initial_policy(definition, loaded.policy, "lineage")
    one = replace(next(iter(policy.operations.values())), stage=Stage.LIVE)
    return definition, replace(policy, operations=dict.fromkeys(some, one))


def _traffic(counters: RequestCounters, names: list[str], draw: random.Random, count: int) -> None:
    for _ in range(count):
        side = draw.choice((Side.OLD, Side.NEW))
        counters.answered(draw.choice(names), side, Outcome.OK, draw.lognormvariate(-4, 1), request_id=b"r")


async def _loop_cost(rate: float) -> dict[str, float]:
    """CPU of the loop that judges, and of counting a request."""
    definition, policy = _definition()
    snapshot, draw, names = compile_snapshot(definition, policy), random.Random(1), list(definition.operations)
    with running_redis() as redis:
        client, other = connect(redis.url), connect(redis.url)
        mine, theirs = RequestCounters(), RequestCounters()
        waiting = [_Waits(draw.choice(names), time.monotonic()) for _ in range(50)]
        evaluator = Evaluator(
            definition,
            mine,
            SignalStore(client, "bench", "gateway-0:1"),
            Surroundings(lambda: snapshot, waiting, [], time.monotonic, time.time),
            lambda cause: print("tripped", cause.reason),
        )
        far = SignalStore(other, "bench", "gateway-1:1")
        spent = 0.0
        for tick in range(_TICKS + 20):
            _traffic(mine, names, draw, int(rate * TICK_S / 2))
            _traffic(theirs, names, draw, int(rate * TICK_S / 2))
            due = [name for at, name in enumerate(names) if at % 8 == tick % 8]
            await far.swap(Said(theirs.signals(), {}, theirs.histograms(due), due))
            begun = time.process_time()
            await evaluator.tick()
            if tick >= 20:
                spent += time.process_time() - begun
        await client.aclose()
        await other.aclose()
    counted = 200_000
    cell = RequestCounters()
    begun = time.process_time()
    for _ in range(counted):
        cell.answered("git.clone", Side.NEW, Outcome.OK, 0.02, request_id=b"r")
    each = (time.process_time() - begun) / counted
    return {"tick_us": 1e6 * spent / _TICKS, "count_us": 1e6 * each, "operations": len(names)}


async def _request_cost(rate: float) -> dict[str, float]:
    """CPU of two workers for each request that they answer, and while there is none."""
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as home:
        async with stub_sides() as sides, running_up(Path(home) / "data", live(migration(sides), 90)) as up:
            pids = [pid for name, pid in up.pids.items() if name.startswith("gateway-")]
            await asyncio.sleep(5)
            before = cpu_of(pids)
            await asyncio.sleep(_IDLE_S)
            idle_s = (cpu_of(pids) - before).total / _IDLE_S / len(pids)
            answered = [0]
            asking = [
                asyncio.create_task(_ask(up.port("gateway"), rate / _CONNECTIONS, number, answered))
                for number in range(_CONNECTIONS)
            ]
            await asyncio.sleep(3)
            before, count = cpu_of(pids), answered[0]
            await asyncio.sleep(_MEASURED_S)
            used_s, count = (cpu_of(pids) - before).total, answered[0] - count
            for task in asking:
                task.cancel()
            for task in asking:
                with suppress(asyncio.CancelledError):
                    await task
    return {
        "rate": count / _MEASURED_S,
        "request_us": 1e6 * used_s / count,
        "idle_worker_us_a_second": 1e6 * idle_s,
        "workers": len(pids),
    }


async def _ask(port: int, rate: float, number: int, answered: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    c, begun, asked = Client(reader, writer), time.monotonic(), 0
    try:
        while True:
            await c.ask(get("/items/1", f"x-key: k{number}.{asked % 50}"))
            answered[0] += 1
            asked += 1
            await asyncio.sleep(max(0.0, begun + asked / rate - time.monotonic()))
    finally:
        writer.close()


async def measure(rate: float) -> dict[str, float]:
    """Both measurements, and the share that comes of them."""
    cost = await _loop_cost(rate) | await _request_cost(rate)
    judging_us = cost["tick_us"] / TICK_S
    serving_us = cost["request_us"] * cost["rate"] / cost["workers"]
    return cost | {
        "judging_us_a_second": judging_us,
        "serving_us_a_second": serving_us,
        "judging_percent": 100 * judging_us / serving_us,
        "counting_percent": 100 * cost["count_us"] / cost["request_us"],
    }


def main() -> None:
    """Measures, prints, and keeps it beside what `bench.guard` found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second, on both workers together")
    cost = asyncio.run(measure(parser.parse_args().rate))
    print(
        f"{cost['operations']:.0f} operations: a tick {cost['tick_us']:.0f} µs, a second of judging "
        f"{cost['judging_us_a_second']:.0f} µs of each worker\n"
        f"{cost['rate']:.0f} requests a second on {cost['workers']:.0f} workers: a request {cost['request_us']:.0f} "
        f"µs, a second {cost['serving_us_a_second']:.0f} µs of each worker; without requests "
        f"{cost['idle_worker_us_a_second']:.0f} µs\n"
        f"judging is {cost['judging_percent']:.1f} % of that; counting a request, {cost['count_us']:.1f} µs, "
        f"{cost['counting_percent']:.1f} %"
    )
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(content | {"cost": cost}, indent=1) + "\n")


if __name__ == "__main__":
    main()
