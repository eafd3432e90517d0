"""`crossfade simulate`: what the shipped detectors would do with some traffic."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from gateway.cli.command import shows
from gateway.cli.shown import CommandError, Shown, plain

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.core.detect.cusum import Detector, Trigger, WindowRule
    from gateway.core.detect.simulate import Draw, Tripped

_PERCENT: Final = 100.0
_LONGEST_S: Final = 4 * 3600.0
_LONGEST_SLOW_S: Final = 1800.0
_MOST_TICKS: Final = 80_000_000
_MOST_EVENTS: Final = 20_000_000_000
_MOST_SENT: Final = 10_000
_SIGNALS: Final = 3
_ALL_TOGETHER: Final = 1
"""Beside each operation, all of them are judged together."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is simulated; percents as they were written."""

    signal: str
    rate: float
    healthy: float
    broken: float
    threshold: float | None
    ratio: float | None
    old_ratio: float
    sigma: float
    operations: int
    profile: str
    window_s: float
    min_samples: int
    runs: int
    days: float

    @property
    def detectors(self) -> int:
        """How many such a migration has: each must be surer for it."""
        return _SIGNALS * (self.operations + _ALL_TOGETHER)


@shows
def simulate_command(
    rate: Annotated[float, typer.Option("--rate", min=0.01, max=10_000, help="Events on new a second.")] = 100.0,
    healthy: Annotated[float, typer.Option("--healthy", min=0, max=100, help="Percent of bad ones before.")] = 1.0,
    broken: Annotated[float, typer.Option("--broken", min=0, max=100, help="Percent of bad ones after.")] = 50.0,
    signal: Annotated[
        Literal["errors", "latency", "consistency"],
        typer.Option("--signal", help="Bad: a failure, an answer above the limit of latency, a mismatch."),
    ] = "errors",
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Percent that are allowed, if not the usual one.")
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", min=0.01, max=1000, help="Latency: new's P95 after, in old's; instead of percents."),
    ] = None,
    old_ratio: Annotated[
        float, typer.Option("--old-ratio", min=0.01, max=1000, help="Latency: old's P95 after, in what it was.")
    ] = 1.0,
    sigma: Annotated[
        float, typer.Option("--sigma", min=0.05, max=3, help="Latency: of the logarithm of times; 1.5 is wide.")
    ] = 1.0,
    operations: Annotated[
        int, typer.Option("--operations", min=1, max=10_000, help="Of the migration: all are judged side by side.")
    ] = 1,
    profile: Annotated[
        Literal["balanced", "strict", "window"],
        typer.Option("--profile", help="How sure to be; window: a rate within the last seconds, of enough events."),
    ] = "balanced",
    window_s: Annotated[
        float, typer.Option("--window-s", min=1, max=3600, help="Of profile window: how long it is.")
    ] = 60.0,
    min_samples: Annotated[
        int, typer.Option("--min-samples", min=200, max=10_000_000, help="Of profile window: events that it must hold.")
    ] = 200,
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="Breaches that are tried.")] = 50,
    days: Annotated[float, typer.Option("--days", min=0, max=1000, help="Healthy days that are tried.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the random numbers.")] = 1,
) -> Shown:
    """Show how long a breach takes to trip, and how often healthy traffic does."""
    asked = _Asked(
        *(signal, rate, healthy, broken, threshold, ratio, old_ratio, sigma),
        *(operations, profile, window_s, min_samples, runs, days),
    )
    _refuse(asked)
    document = _simulate(asked, random.Random(seed).random)  # noqa: S311 - a simulation that can be repeated
    return Shown(document, lambda out: _print(out, document, asked))


def _refuse(asked: _Asked) -> None:
    from gateway.core.detect.simulate import DAY_S, TICK_S

    def usage(message: str) -> CommandError:
        return CommandError("usage", message)

    if asked.days * DAY_S / TICK_S > _MOST_TICKS or asked.days * DAY_S * asked.rate > _MOST_EVENTS:
        most = min(_MOST_TICKS * TICK_S, _MOST_EVENTS / asked.rate) / DAY_S
        raise usage(f"--days: at most {most:.0f} at {asked.rate:g} events a second")
    if asked.threshold is not None and not 0 < asked.threshold < _PERCENT:
        raise usage("--threshold: write a percentage above 0 and below 100")
    if asked.threshold is not None and asked.signal == "latency":
        raise usage("--threshold: of latency 5 % are allowed always, for P95 is judged; write how many are --broken")
    if asked.signal != "latency" and (asked.ratio is not None or asked.old_ratio != 1):
        raise usage("--ratio and --old-ratio are of --signal latency; for others write --broken")
    if asked.ratio is None:
        if asked.old_ratio != 1:
            raise usage("--old-ratio: say with --ratio what new does at the same time")
        return
    if asked.profile == "window":
        raise usage("--ratio: profile window counts only; write --broken")
    if asked.rate * asked.runs > _MOST_SENT:
        raise usage(f"--ratio: every request is simulated; at most {_MOST_SENT:.0f} a second in all --runs together")


def _simulate(asked: _Asked, draw: Draw) -> dict[str, Any]:
    from gateway.core.detect.simulate import Traffic, false_trips, share_above_limit, time_to_trip

    trigger = _trigger(asked.signal, None if asked.threshold is None else asked.threshold / _PERCENT)
    healthy = Traffic(asked.rate, asked.healthy / _PERCENT)
    broken = Traffic(asked.rate, asked.broken / _PERCENT)

    def new_rule() -> Detector | WindowRule:
        return _rule(trigger, asked)

    if asked.ratio is None:
        found = [time_to_trip(new_rule, healthy, broken, _LONGEST_S, draw) for _ in range(asked.runs)]
    else:
        found = [_slow_trip(asked, draw) for _ in range(asked.runs)]
        healthy = Traffic(asked.rate, share_above_limit(1.0, asked.sigma))
    tripped = [trip for trip in found if trip is not None]
    after = sorted(trip.after_s for trip in tripped)
    return {
        "signal": asked.signal,
        "profile": asked.profile,
        "threshold_percent": _PERCENT * trigger.threshold,
        "operations": asked.operations,
        "detectors": asked.detectors,
        "evidence_needed": _evidence_needed(new_rule()),
        "runs": asked.runs,
        "tripped": len(tripped),
        "median_s": median(after) if after else None,
        "p95_s": after[max(0, -(-95 * len(after) // 100) - 1)] if after else None,
        "median_events": median(trip.events for trip in tripped) if tripped else None,
        "healthy_percent": _PERCENT * healthy.rate,
        "days": asked.days,
        "false_trips": false_trips(new_rule, healthy, asked.days, draw),
    }


def _rule(trigger: Trigger, asked: _Asked) -> Detector | WindowRule:
    from gateway.core.detect.cusum import PROFILES, Detector, WindowRule

    if asked.profile == "window":
        return WindowRule(trigger.threshold, asked.window_s, asked.min_samples)
    return Detector(trigger, PROFILES[asked.profile], asked.detectors)


def _evidence_needed(rule: Detector | WindowRule) -> float | None:
    from gateway.core.detect.cusum import Detector

    return rule.limit if isinstance(rule, Detector) else None


def _slow_trip(asked: _Asked, draw: Draw) -> Tripped | None:
    """Request by request, on both sides, with the baseline and the second look."""
    from gateway.core.detect.cusum import PROFILES
    from gateway.core.detect.simulate_slow import Judging, Pace, SlowScene

    assert asked.ratio is not None
    scene = SlowScene(Judging(profile=PROFILES[asked.profile], detectors=asked.detectors), draw)
    scene.warm_up(Pace(asked.rate, asked.sigma))
    return scene.run(Pace(asked.rate, asked.sigma, asked.ratio, asked.old_ratio), _LONGEST_SLOW_S)


def _trigger(signal: str, allowed: float | None) -> Trigger:
    from gateway.core.detect.cusum import consistency_trigger, error_trigger, latency_trigger

    match signal:
        case "errors":
            return error_trigger() if allowed is None else error_trigger(allowed)
        case "consistency":
            return consistency_trigger() if allowed is None else consistency_trigger(1 - allowed)
        case _:
            return latency_trigger()


def _print(out: Console, document: dict[str, Any], asked: _Asked) -> None:
    needed = document["evidence_needed"]
    sure = f"{asked.window_s:g} s of {asked.min_samples} events" if needed is None else f"{needed:.1f} nats trip"
    out.print(
        plain(
            f"{asked.signal}, profile {asked.profile}, {document['threshold_percent']:g} % allowed, "
            f"{asked.rate:g} events a second; {asked.operations} operations have {asked.detectors} detectors: {sure}"
        )
    )
    what, limit = f"{asked.broken:g} % bad", "4 hours"
    if asked.ratio is not None:
        what = f"P95 of new {asked.ratio:g} times, of old {asked.old_ratio:g} times as long, sigma {asked.sigma:g}"
        limit = f"{_LONGEST_SLOW_S:g} s"
    if document["tripped"]:
        out.print(
            plain(
                f"{what}: {document['tripped']} of {document['runs']} breaches tripped, after "
                f"{document['median_s']:g} s (P95 {document['p95_s']:g} s), {document['median_events']:g} events"
            )
        )
    else:
        out.print(plain(f"{what}: none of {document['runs']} breaches tripped within {limit}"))
    out.print(
        plain(
            f"{document['healthy_percent']:g} % bad: {document['false_trips']} false trips in {document['days']:g} days"
        )
    )
