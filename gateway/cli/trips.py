"""`crossfade trips`: what detectors saw when they took new out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.shown import Shown, plain

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]


@asks_control
def trips_command(
    control: Control,
    trip: Annotated[str | None, typer.Argument(metavar="[TRIP]", help="Everything about this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="At most this many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="`next` of the page before.")] = None,
) -> Shown:
    """Show what detectors saw when they took new out, newest first."""
    if trip is not None:
        record = control.get(f"/v1/trips/{quote(trip, safe='')}")
        return Shown(record, lambda out: _print_one(out, record))
    page = control.get("/v1/trips", {"limit": str(limit), **({"cursor": cursor} if cursor else {})})
    return Shown(page, lambda out: _print_page(out, page))


def _print_page(out: Console, page: Document) -> None:
    from rich.table import Table

    table = Table("trip", "at", "scope", "why", box=None)
    for item in page["items"]:
        why = f"DISARMED, nothing was done: {item['reason']}" if item["disarmed"] else item["reason"]
        table.add_row(*map(plain, (item["id"], item["at"], item["effective_scope"], why)))
    out.print(table)
    if page["next"]:
        out.print(plain(f"more: crossfade trips --cursor {page['next']}"))


def _print_one(out: Console, record: Document) -> None:
    for line in lines_of(record):
        out.print(plain(line))


def lines_of(record: Document) -> list[str]:
    """A record in words, for on-call."""
    seen, workers = record["excursion"], record["workers"]
    done = "DISARMED: nothing was taken out" if record["disarmed"] else f"took out {record['effective_scope']}"
    lines = [f"{record['at']}  {record['by']}  {done}", f"  {record['reason']}"]
    if seen["n"] is not None:
        lines.append(f"  {seen['bad']} bad of {seen['n']} within {seen['seconds']} s, {seen['percent']:.4g} %")
    if seen["limit_ms"] is not None:
        lines.append(f"  too slow: above {seen['limit_ms']} ms; P95 of new {_known(seen['p95_ms'])} ms")
    old = record["baseline"]
    if old is not None:
        shared = "  SHARED FAULT: old fails as often" if old["shared_fault"] else ""
        lines.append(
            f"  old meanwhile: {old['n']} answers, {old['errors']} failed, P95 {_known(old['p95_ms'])} ms{shared}"
        )
    detectors = record["detectors"]
    evidence = ", ".join(f"{name} {value}" for name, value in detectors.items())
    lines.append(f"  evidence in percent of what trips: {evidence}")
    alone = ", judged alone: Redis did not answer" if workers["alone"] else ""
    lines.append(f"  workers heard {workers['heard']}, of them silent {workers['blind']}{alone}")
    kinds = ", ".join(f"{kind['kind']} x{kind['n']}" for kind in record["error_kinds"])
    lines.append(f"  failures here: {kinds or 'none'}")
    lines += [f"    failed: {request}" for request in record["failed"]]
    lines += [
        f"    {'took' if slow['ended'] else 'still waiting after'} {slow['ms']} ms: {slow['request_id']}"
        for slow in record["slowest"]
    ]
    before = record["policy_before"]
    lines.append(f"  policy before: epoch {before['epoch']}")
    lines += [
        f"    {name}: {operation['stage']}, {operation['effective_percent']} % in force"
        for name, operation in before["operations"].items()
    ]
    return lines


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
