"""Crossfade beside nginx and others, in the same minutes on the same cores.

    .venv/bin/python -m bench [--full] [--rounds N] [--seconds S] [--write]

Rounds are interleaved: each runs every contestant under every load, so that a noisy neighbour hits all of them; what
counts is the ratio within a round. CPU is the proxy's own. `--write` puts the outcome into docs/performance.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.contestants import CONTESTANTS, Contestant, backend
from bench.load import GET_LARGE, GET_SMALL, MCP_BODY, MCP_HEADER, Shape, run_wrk
from bench.processes import ROOT, cpu_of, rss_mib
from bench.report import Sample, machine, plot, save, tables

_CASES: Final = ((GET_SMALL, 32), (GET_SMALL, 256), (GET_LARGE, 32), (MCP_HEADER, 32), (MCP_BODY, 32))
_GRID: Final = tuple(
    (shape, connections) for shape in (GET_SMALL, GET_LARGE, MCP_HEADER, MCP_BODY) for connections in (1, 32, 256)
)
_WARM_UP_S: Final = 1
_MARK: Final = "<!-- measured by `make bench`: nothing below is written by hand -->"


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="all contestants and the whole grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="length of one run of wrk")
    parser.add_argument("--write", action="store_true", help="put the outcome into docs/performance.md")
    options = parser.parse_args()
    chosen = _choose(full=options.full)
    if chosen is None:
        return 1
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as directory, backend(Path(directory)) as port:
        for number in range(1, options.rounds + 1):
            for contestant in chosen:
                samples += _measure(contestant, number, Path(directory), port, options)
    print(f"\n{machine()}\n\n{tables(samples)}\n")
    name = f"{time.strftime('%Y-%m-%d')}{'-full' if options.full else ''}.json"
    save(samples, ROOT / "bench" / "results" / name)
    if options.write:
        _write(samples)
    return 0


def _choose(*, full: bool) -> list[Contestant] | None:
    """Who can be measured here; None when nothing can. Says what is missing, and how to get it."""
    for tool, how in (("wrk", "apt-get install wrk"), ("nginx", "apt-get install nginx-light")):
        if shutil.which(tool, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin") is None:
            sys.stderr.write(f"{tool} is missing: {how}\n")
            return None
    chosen = []
    for contestant in CONTESTANTS:
        if contestant.is_extra and not full:
            continue
        missing = contestant.missing()
        if missing:
            sys.stderr.write(f"{contestant.name} is left out: {'; '.join(missing)}\n")
        else:
            chosen.append(contestant)
    return chosen


def _measure(
    contestant: Contestant, number: int, home: Path, backend_port: int, options: argparse.Namespace
) -> list[Sample]:
    samples = []
    cases: tuple[tuple[Shape, int], ...] = _GRID if options.full else _CASES
    with contestant.start(home, backend_port) as running:
        for shape, connections in cases:
            run_wrk(running.port, shape, connections, _WARM_UP_S, home)
            before = cpu_of(running.pids)
            load = run_wrk(running.port, shape, connections, options.seconds, home)
            used = cpu_of(running.pids) - before
            sample = Sample(
                round=number,
                contestant=contestant.name,
                shape=shape.name,
                connections=connections,
                requests=load.requests,
                rate=load.requests / load.seconds,
                user_us=used.user / load.requests * 1e6,
                system_us=used.system / load.requests * 1e6,
                p50_s=load.p50_s,
                p99_s=load.p99_s,
                rss_mib=rss_mib(running.pids),
                errors=load.errors,
            )
            print(
                f"round {number}  {contestant.name:24} {shape.name:32} {connections:4}  {sample.rate:9,.0f}/s "
                f"{sample.user_us:6.1f} + {sample.system_us:5.1f} us {'; '.join(load.errors)}",
                flush=True,
            )
            samples.append(sample)
    return samples


def _write(samples: list[Sample]) -> None:
    page = ROOT / "docs" / "performance.md"
    head, mark, _ = page.read_text().partition(_MARK)
    assert mark, "docs/performance.md has lost its mark"
    (ROOT / "docs" / "performance.svg").write_text(plot(samples, (GET_SMALL.name, 32)))
    where = f"{machine()}; {time.strftime('%Y-%m-%d')}."
    page.write_text(f"{head}{_MARK}\n\n{where}\n\n![CPU per request](performance.svg)\n\n{tables(samples)}\n")


if __name__ == "__main__":
    sys.exit(main())
