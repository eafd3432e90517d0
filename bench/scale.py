"""What size and trouble cost: many operations, many pinned keys, a dead instance, a million requests.

    .venv/bin/python -m bench.scale [--rounds N] [--seconds S] [--requests N]

Every variant differs from the first in one thing; all run side by side through the whole measurement and are asked in
turn, so that what is compared was measured within the same seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.contestants import BACKEND_ADDRESSES, Running, backend, crossfade, migration
from bench.load import GET_SMALL, Load, run_wrk
from bench.processes import cpu_of, free_port, rss_mib

_CONNECTIONS: Final = 32
_STEP_S: Final = 10
_BASE: Final = "10 operations"

Content = dict[str, Any]


def _many_operations(backend_port: int) -> Content:
    return migration(backend_port, operations=1000)


def _many_pinned_keys(backend_port: int) -> Content:
    content: Content = migration(backend_port)
    # A migration file may hold 50 000 values.
    pinned = [f"{number:x}" for number in range(40_000)]
    content["groups"]["items"] |= {"allow": pinned[::2], "deny": pinned[1::2]}
    return content


def _three_instances(backend_port: int) -> Content:
    content: Content = migration(backend_port)
    for side, addresses in zip(content["sides"].values(), (BACKEND_ADDRESSES[:3], BACKEND_ADDRESSES[3:]), strict=True):
        side["balance"] = "p2c"
        side["instances"] = [f"http://{address}:{backend_port}" for address in addresses]
    return content


def _one_of_three_dead(backend_port: int) -> Content:
    content = _three_instances(backend_port)
    for side in content["sides"].values():
        side["instances"][2] = f"http://127.0.0.1:{free_port()}"
    return content


_VARIANTS: Final[dict[str, Callable[[int], Content]]] = {
    _BASE: migration,
    "1 000 operations": _many_operations,
    "40 000 pinned keys": _many_pinned_keys,
    "three instances": _three_instances,
    "three instances, one dead": _one_of_three_dead,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of one run of wrk")
    parser.add_argument("--requests", type=int, default=0, help="then so many requests, for memory; 1000000 is 2 min")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crossfade-bench-")))
        port = stack.enter_context(backend(home))
        there = {
            name: stack.enter_context(crossfade("on", content)(_directory(home, name), port))
            for name, content in _VARIANTS.items()
        }
        _compare(there, options.rounds, options.seconds, home)
        if options.requests:
            _stream(there[_BASE], options.requests, home)


def _directory(home: Path, name: str) -> Path:
    directory = home / name.replace(" ", "-").replace(",", "")
    directory.mkdir()
    return directory


def _compare(there: dict[str, Running], rounds: int, seconds: int, home: Path) -> None:
    cost: dict[str, list[float]] = {name: [] for name in there}
    slow: dict[str, list[float]] = {name: [] for name in there}
    for running in there.values():
        run_wrk(running.port, GET_SMALL, _CONNECTIONS, 1, home)
    for _ in range(rounds):
        for name, running in there.items():
            used, load = _measure(running, seconds, home)
            cost[name].append(used)
            slow[name].append(load.p99_s * 1000)
    for name in there:
        ratio = median(mine / base for mine, base in zip(cost[name], cost[_BASE], strict=True))
        print(
            f"{name:28} {median(cost[name]):6.1f} us CPU a request, {ratio - 1:+6.1%} (median of {rounds} rounds); "
            f"P99 {median(slow[name]):5.2f} ms"
        )


def _measure(running: Running, seconds: int, home: Path) -> tuple[float, Load]:
    before = cpu_of(running.pids)
    load = run_wrk(running.port, GET_SMALL, _CONNECTIONS, seconds, home)
    if load.errors:
        raise RuntimeError(f"failed requests: {load.errors}")
    return (cpu_of(running.pids) - before).total / load.requests * 1e6, load


def _stream(running: Running, requests: int, home: Path) -> None:
    begun, done = rss_mib(running.pids), 0
    while done < requests:
        done += run_wrk(running.port, GET_SMALL, _CONNECTIONS, _STEP_S, home).requests
        print(f"{done:9,} requests: {rss_mib(running.pids):6.1f} MiB, {rss_mib(running.pids) - begun:+.1f}", flush=True)


if __name__ == "__main__":
    main()
