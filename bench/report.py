"""Rounds in, tables out: medians with their spread, and ratios between contestants of the same round."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.contestants import BASELINE

_BAR_PX: Final = 420
_ROW_PX: Final = 26
_LABEL_PX: Final = 220


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant under one load in one round.

    Attributes:
        round: Number of the round.
        contestant: Name.
        shape: Name of the requests' shape.
        connections: How many asked at once.
        requests: Answered.
        rate: Requests a second.
        user_us: CPU of the proxy for each request, in microseconds.
        system_us: The same, in the kernel.
        p50_s: Median latency.
        p99_s: 99th percentile.
        rss_mib: Resident size of the proxy afterwards.
        errors: What wrk said of errors.
    """

    round: int
    contestant: str
    shape: str
    connections: int
    requests: int
    rate: float
    user_us: float
    system_us: float
    p50_s: float
    p99_s: float
    rss_mib: float
    errors: tuple[str, ...]

    @property
    def cpu_us(self) -> float:
        """All CPU for each request."""
        return self.user_us + self.system_us


Case = tuple[str, int]
"""A shape and a number of connections."""


def tables(samples: Sequence[Sample]) -> str:
    """A Markdown table for each case."""
    parts = []
    for case in _cases(samples):
        rows = [
            f"### {case[0]}, {case[1]} connection{'s' if case[1] != 1 else ''}",
            "",
            "| proxy | CPU µs/request (min-max) | user + system | ratio to nginx (min-max) "
            "| requests/s | P50 ms | P99 ms | RSS MiB |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name in _names(samples):
            mine = [
                sample for sample in samples if (sample.shape, sample.connections) == case and sample.contestant == name
            ]
            if mine:
                rows.append(_row(name, mine, _ratios(samples, case, name)))
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _row(name: str, mine: Sequence[Sample], ratios: Sequence[float]) -> str:
    cpu = [sample.cpu_us for sample in mine]
    columns = [
        name,
        _spread(cpu, 1) if any(cpu) else "",
        f"{median(s.user_us for s in mine):.1f} + {median(s.system_us for s in mine):.1f}" if any(cpu) else "",
        _spread(ratios, 2) if ratios else "",
        f"{median(s.rate for s in mine):,.0f}",
        f"{median(s.p50_s for s in mine) * 1e3:.2f}",
        f"{median(s.p99_s for s in mine) * 1e3:.2f}",
        f"{median(s.rss_mib for s in mine):.0f}" if any(cpu) else "",
    ]
    return f"| {' | '.join(columns)} |"


def _ratios(samples: Iterable[Sample], case: Case, name: str) -> list[float]:
    """CPU of one over that of nginx, round by round."""
    by_round: dict[int, dict[str, float]] = {}
    for sample in samples:
        if (sample.shape, sample.connections) == case:
            by_round.setdefault(sample.round, {})[sample.contestant] = sample.cpu_us
    pairs = [(of.get(name), of.get(BASELINE)) for of in by_round.values()]
    return [mine / theirs for mine, theirs in pairs if mine and theirs]


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _cases(samples: Iterable[Sample]) -> list[Case]:
    return list(dict.fromkeys((sample.shape, sample.connections) for sample in samples))


def _names(samples: Iterable[Sample]) -> list[str]:
    return list(dict.fromkeys(sample.contestant for sample in samples))


def plot(samples: Sequence[Sample], case: Case) -> str:
    """CPU for each request as bars, user and system; SVG."""
    rows = []
    of_case = [sample for sample in samples if (sample.shape, sample.connections) == case]
    bars: dict[str, tuple[float, float]] = {}
    for name in _names(of_case):
        mine = [sample for sample in of_case if sample.contestant == name]
        if any(sample.cpu_us for sample in mine):
            bars[name] = median(s.user_us for s in mine), median(s.system_us for s in mine)
    longest = max((user + system for user, system in bars.values()), default=1.0)
    for at, (name, (user, system)) in enumerate(bars.items()):
        top, scale = _ROW_PX * (at + 1), _BAR_PX / longest
        rows += [
            f'<text x="{_LABEL_PX - 8}" y="{top + 14}" text-anchor="end">{name}</text>',
            f'<rect x="{_LABEL_PX}" y="{top}" width="{user * scale:.1f}" height="18" fill="#3b6ea5"/>',
            f'<rect x="{_LABEL_PX + user * scale:.1f}" y="{top}" width="{system * scale:.1f}" height="18" '
            'fill="#a5c3e0"/>',
            f'<text x="{_LABEL_PX + (user + system) * scale + 6:.1f}" y="{top + 14}">{user + system:.0f}</text>',
        ]
    height = _ROW_PX * (len(bars) + 1) + 10
    title = f"CPU µs per request, user (dark) and system (light): {case[0]}, {case[1]} connections"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL_PX + _BAR_PX + 60}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><text x="8" y="16">{title}</text>{"".join(rows)}</svg>\n'
    )


def machine() -> str:
    """What it was measured on, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def save(samples: Sequence[Sample], path: Path) -> None:
    """Every sample, for whoever wants to look closer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "samples": [asdict(sample) for sample in samples]}
    path.write_text(json.dumps(content, indent=1) + "\n")
