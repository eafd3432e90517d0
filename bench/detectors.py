"""What the shipped detectors do with simulated traffic, beside the figures of their design and rules of other tools.

    .venv/bin/python -m bench.detectors [--short] [--jobs N]

Seeded: the same code gives the same numbers on any machine. The long form, 200 days of each kind of healthy traffic
among others, takes about a quarter of an hour of one core and is kept in bench/results/detectors.json, from which
`scripts/plot_detectors` makes the tables and pictures of docs/detectors.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from gateway.core.detect.cusum import Detector, Trigger, consistency_trigger, error_trigger, latency_trigger
from gateway.core.detect.simulate import (
    DAY_S,
    FixedWindow,
    NewRule,
    RepeatedChecks,
    Traffic,
    Tripped,
    first_trip,
    share_above_limit,
    time_to_trip,
)
from gateway.core.detect.simulate_slow import Judging, Pace, SlowScene

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "bench" / "results" / "detectors.json"
SHIPPED: Final = 54
"""Detectors of the shipped migration: 17 operations and all together, three each."""
HEALTHY: Final = 0.01
_DAYS: Final = 200
_PARTS: Final = 20
RULES: Final = ("crossfade", "fixed window", "flagger-like", "flagger-like, one look")
DESIGN_S: Final[Mapping[str, Mapping[tuple[float, float], tuple[float, float | None]]]] = {
    # algorithms.md 1.4: (requests a second, rate) -> median, P95.
    "errors": {
        (1, 0.06): (1465, 5142),
        (1, 0.1): (292, 550),
        (1, 0.5): (19, 34),
        (1, 1.0): (10, 17),
        (10, 0.06): (184, 608),
        (10, 0.1): (31, 53),
        (10, 0.5): (2.0, 3.5),
        (10, 1.0): (1.0, 1.75),
        (100, 0.06): (18, 65),
        (100, 0.1): (3.5, 6.0),
        (100, 0.5): (0.75, None),
        (100, 1.0): (0.75, None),
        (1000, 0.06): (2.5, 8.8),
        (1000, 0.1): (0.75, 1.0),
        (1000, 0.5): (0.75, None),
        (1000, 1.0): (0.75, None),
    },
}
DESIGN_SLOW_S: Final[Mapping[tuple[float, float, float], float]] = {
    # The same: (requests a second, sigma, ratio) -> median.
    (1, 0.5, 2.5): 167,
    (1, 0.5, 5): 24,
    (1, 1.0, 2.5): 500,
    (1, 1.0, 5): 55,
    (1, 1.5, 2.5): 786,
    (1, 1.5, 5): 132,
    (10, 0.5, 2.5): 19,
    (10, 0.5, 5): 2.3,
    (10, 1.0, 2.5): 48,
    (10, 1.0, 5): 5.8,
    (10, 1.5, 2.5): 93,
    (10, 1.5, 5): 11,
    (100, 0.5, 2.5): 2.3,
    (100, 0.5, 5): 0.75,
    (100, 1.0, 2.5): 5.8,
    (100, 1.0, 5): 1.0,
    (100, 1.5, 2.5): 8,
    (100, 1.5, 5): 1.5,
    (1000, 0.5, 2.5): 0.75,
    (1000, 0.5, 5): 0.75,
    (1000, 1.0, 2.5): 1.0,
    (1000, 1.0, 5): 0.75,
    (1000, 1.5, 2.5): 1.0,
    (1000, 1.5, 5): 0.75,
}
DESIGN_COMPARISONS: Final = {2e-4: 150_000, 1e-3: 9_000, 0.01: 470, 0.1: 40, 1.0: 3.5}


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    Attributes:
        kind: `breach`, `health`, `slow`, `slow health` or `common`.
        signal: Of what.
        per_s: Events a second.
        rate: Share of bad ones; of slowness: new's P95, in old's.
        amount: Breaches, or days of health.
        rule: Who judges.
        detectors: How many run side by side.
        sigma: Of slowness.
        is_confirming: Of slowness: whether the second look is taken.
        part: Long ones are cut in parts, with draws of their own, for more than one core.
    """

    kind: str
    signal: str
    per_s: float
    rate: float
    amount: int
    rule: str = "crossfade"
    detectors: int = 1
    sigma: float = 1.0
    is_confirming: bool = True
    part: int = field(default=0, repr=False)


def cells(*, is_short: bool) -> Iterator[Cell]:
    """What is measured; the long ones last."""
    per_s: float

    def some(amount: int) -> int:
        return max(2, amount // 100) if is_short else amount

    for per_s in (1, 10, 100, 1000):
        for rate in (0.06, 0.1, 0.5, 1.0):
            for detectors in (1, SHIPPED):
                yield Cell("breach", "errors", per_s, rate, some(100), detectors=detectors)
    for rate in DESIGN_COMPARISONS:
        for detectors in (1, SHIPPED):
            yield Cell("breach", "consistency", 10, rate, some(100), detectors=detectors)
    for rule in RULES:
        for per_s in (0.3, 1, 3, 10, 30, 100, 300):
            for rate in (0.1, 0.5):
                yield Cell("breach", "errors", per_s, rate, some(41), rule, SHIPPED)
            if rule != "crossfade":
                yield Cell("health", "errors", per_s, HEALTHY, 1 if is_short else 2, rule)
    for per_s, amount in ((1, 40), (10, 40), (100, 40), (1000, 8)):
        for detectors in (1, SHIPPED):
            for sigma in (0.5, 1.0, 1.5):
                for ratio in (2.5, 5):
                    if not (is_short and per_s > 10):
                        yield Cell("slow", "latency", per_s, ratio, some(amount), detectors=detectors, sigma=sigma)
    for per_s, amount in ((1, 200), (10, 200), (100, 100)):
        yield Cell("common", "latency", per_s, 10, some(amount), detectors=SHIPPED)
        yield Cell("common", "latency", per_s, 3, some(30), detectors=SHIPPED)
        yield Cell("common", "latency", per_s, 10, some(20), detectors=SHIPPED, is_confirming=False)
    if not is_short:
        for per_s, amount in ((1, 5), (10, 2)):
            yield Cell("slow health", "latency", per_s, 1.5, amount)
    for per_s in (0.3, 3, 30):
        yield Cell("health", "errors", per_s, HEALTHY, 1 if is_short else 20)
    for per_s in (1, 10, 100):
        for part in range(1 if is_short else _PARTS):
            days = 1 if is_short else _DAYS // _PARTS
            yield Cell("health", "errors", per_s, HEALTHY, days, part=part)
            yield Cell("health", "latency", per_s, share_above_limit(1.5, 1.0), days, part=part)


def measure(cell: Cell, seed: int = 1) -> dict[str, Any]:
    """Measures; what was asked and what came out."""
    draw = random.Random(f"{seed + 1000 * cell.part} {cell}").random
    match cell.kind:
        case "breach":
            # Nobody reports a mismatch among healthy answers.
            before = Traffic(cell.per_s, HEALTHY if cell.signal == "errors" else 0.0)
            after = Traffic(cell.per_s, cell.rate)
            return asdict(cell) | _times(
                [time_to_trip(_rule(cell), before, after, 2 * DAY_S, draw) for _ in range(cell.amount)]
            )
        case "health":
            return asdict(cell) | {"trips": _trips(cell, draw)}
        case _:
            judging = Judging(detectors=cell.detectors, is_confirming=cell.is_confirming)
            old = cell.rate if cell.kind == "common" else 1.0
            pace = Pace(cell.per_s, cell.sigma, cell.rate, old)
            runs, limit_s = cell.amount, 7200.0
            if cell.kind == "common":
                limit_s = 600.0
            elif cell.kind == "slow health":
                runs, limit_s = 1, cell.amount * DAY_S
            found = []
            for _ in range(runs):
                scene = SlowScene(judging, draw)
                scene.warm_up(Pace(cell.per_s, cell.sigma))
                if cell.kind == "common":
                    # Old's P95 of the last five minutes is all healthy.
                    scene.run(Pace(cell.per_s, cell.sigma), 240)
                found.append(scene.run(pace, limit_s))
            return asdict(cell) | _times(found)


def _rule(cell: Cell) -> NewRule:
    trigger = _trigger(cell.signal)
    match cell.rule:
        case "fixed window":
            return partial(FixedWindow, trigger.threshold)
        case "flagger-like":
            return partial(RepeatedChecks, trigger.threshold)
        case "flagger-like, one look":
            return partial(RepeatedChecks, trigger.threshold, failures=1)
    return lambda: Detector(trigger, detectors=cell.detectors)


def _trigger(signal: str) -> Trigger:
    return {"errors": error_trigger, "latency": latency_trigger, "consistency": consistency_trigger}[signal]()


def _trips(cell: Cell, draw: Any) -> int:
    left_s, trips = cell.amount * DAY_S, 0
    while (found := first_trip(_rule(cell)(), Traffic(cell.per_s, cell.rate), left_s, draw)) is not None:
        trips, left_s = trips + 1, left_s - found.after_s
    return trips


def _times(found: list[Tripped | None]) -> dict[str, Any]:
    after = sorted(trip.after_s for trip in found if trip is not None)
    events = [trip.events for trip in found if trip is not None]
    if not after:
        return {"trips": 0, "median_s": None, "p95_s": None, "median_events": None}
    p95_s = after[max(0, -(-95 * len(after) // 100) - 1)]
    return {"trips": len(after), "median_s": median(after), "p95_s": p95_s, "median_events": median(events)}


def main() -> None:
    """Measures, prints, and keeps the long form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="a day and a few breaches of each; nothing is kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun, asked = time.monotonic(), list(cells(is_short=options.short))
    measured = []
    with multiprocessing.Pool(options.jobs) as pool:
        for number, found in enumerate(pool.imap(partial(measure, seed=options.seed), asked), 1):
            measured.append(found)
            sys.stderr.write(f"{number}/{len(asked)} {time.monotonic() - begun:.0f} s {found}\n")
    print("\n".join(report(measured)))
    if not options.short:
        RESULTS.write_text(json.dumps({"seed": options.seed, "cells": measured}, indent=1) + "\n")


def report(measured: list[dict[str, Any]]) -> Iterator[str]:
    """In words, beside the design's figures."""
    for found in measured:
        design = _design(found)
        beside = ""
        if design is not None and found["median_s"]:
            mine = found["median_events"] if found["signal"] == "consistency" else found["median_s"]
            beside = f"; design {design:g}, ratio {mine / design:.2f}"
        what = f"{found['kind']}, {found['signal']}, {found['rule']}, {found['detectors']} detectors, "
        what += f"{found['per_s']:g}/s, {found['rate']:.4g}"
        if "slow" in found["kind"] or found["kind"] == "common":
            what += f", sigma {found['sigma']:g}" + ("" if found["is_confirming"] else ", no second look")
        if "health" in found["kind"]:
            yield f"{what}: {found['trips']} false trips in {found['amount']} days"
        elif not found["trips"]:
            yield f"{what}: 0 of {found['amount']} tripped"
        else:
            yield (
                f"{what}: {found['trips']} of {found['amount']} tripped, {found['median_s']:g} s "
                f"[{found['p95_s']:g}], {found['median_events']:g} events{beside}"
            )


def _design(found: Mapping[str, Any]) -> float | None:
    if found["rule"] != "crossfade":
        return None
    match found["kind"], found["signal"]:
        case "breach", "errors":
            known = DESIGN_S["errors"].get((found["per_s"], found["rate"]))
            return known[0] if known else None
        case "breach", "consistency":
            return DESIGN_COMPARISONS[found["rate"]]
        case "slow", _:
            return DESIGN_SLOW_S[found["per_s"], found["sigma"], found["rate"]]
    return None


if __name__ == "__main__":
    main()
