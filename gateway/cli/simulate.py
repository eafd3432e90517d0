"""`crossfade simulate`: what the shipped detectors would do with some traffic."""

from __future__ import annotations

import random
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from gateway.cli.command import shows
from gateway.cli.shown import CommandError, Shown, plain

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.core.detect.cusum import Trigger

_PERCENT: Final = 100.0
_LONGEST_S: Final = 4 * 3600.0
_MOST_TICKS: Final = 40_000_000


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
    profile: Annotated[Literal["balanced", "strict"], typer.Option("--profile", help="How sure to be.")] = "balanced",
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="Breaches that are tried.")] = 50,
    days: Annotated[float, typer.Option("--days", min=0, max=1000, help="Healthy days that are tried.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the random numbers.")] = 1,
) -> Shown:
    """Show how long a breach takes to trip, and how often healthy traffic does."""
    from gateway.core.detect.cusum import PROFILES
    from gateway.core.detect.simulate import DAY_S, TICK_S, Traffic, false_trips, time_to_trip

    if days * DAY_S / TICK_S > _MOST_TICKS:
        raise CommandError("usage", f"at most {_MOST_TICKS * TICK_S / DAY_S:.0f} days; they are simulated tick by tick")
    if threshold is not None and not 0 < threshold < _PERCENT:
        raise CommandError("usage", "--threshold: write a percentage above 0 and below 100")
    trigger = _trigger(signal, None if threshold is None else threshold / _PERCENT)
    before, after = Traffic(rate, healthy / _PERCENT), Traffic(rate, broken / _PERCENT)
    rng = random.Random(seed)  # noqa: S311 - a simulation that can be repeated
    found = [time_to_trip(trigger, PROFILES[profile], before, after, _LONGEST_S, rng.random) for _ in range(runs)]
    tripped = sorted(trip.after_s for trip in found if trip is not None)
    document: dict[str, Any] = {
        "signal": signal,
        "profile": profile,
        "threshold_percent": _PERCENT * trigger.threshold,
        "runs": runs,
        "tripped": len(tripped),
        "median_s": median(tripped) if tripped else None,
        "p95_s": tripped[max(0, -(-95 * len(tripped) // 100) - 1)] if tripped else None,
        "median_events": median(trip.events for trip in found if trip is not None) if tripped else None,
        "days": days,
        "false_trips": false_trips(trigger, PROFILES[profile], before, days, rng.random),
    }
    return Shown(document, lambda out: _print(out, document, rate, healthy, broken))


def _trigger(signal: str, allowed: float | None) -> Trigger:
    from gateway.core.detect.cusum import consistency_trigger, error_trigger, latency_trigger

    match signal:
        case "errors":
            return error_trigger() if allowed is None else error_trigger(allowed)
        case "consistency":
            return consistency_trigger() if allowed is None else consistency_trigger(1 - allowed)
        case _:
            return latency_trigger()


def _print(out: Console, document: dict[str, Any], rate: float, healthy: float, broken: float) -> None:
    out.print(
        plain(
            f"{document['signal']}, profile {document['profile']}, {document['threshold_percent']:g} % allowed, "
            f"{rate:g} events a second"
        )
    )
    if document["tripped"]:
        out.print(
            plain(
                f"{broken:g} % bad: {document['tripped']} of {document['runs']} breaches tripped, after "
                f"{document['median_s']:g} s (P95 {document['p95_s']:g} s), {document['median_events']:g} events"
            )
        )
    else:
        out.print(plain(f"{broken:g} % bad: none of {document['runs']} breaches tripped within 4 hours"))
    out.print(plain(f"{healthy:g} % bad: {document['false_trips']} false trips in {document['days']:g} days"))
