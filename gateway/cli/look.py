"""`crossfade status`, `explain`, `audit`: the commands that only look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.shown import CommandError, Shown, plain
from gateway.core.keys import encode_part

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Document = dict[str, Any]


@asks_control
def status_command(control: Control) -> Shown:
    """Show the state of everything: policy, kills, groups, operations, workers."""
    status = control.get("/v1/status")
    return Shown(status, lambda out: _print_status(out, status))


@asks_control
def explain_command(
    control: Control,
    operation: Annotated[str | None, typer.Argument(help="Absent: a request that no operation matches.")] = None,
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="The key, such as AGENT/TASK, or its parts: AGENT TASK."),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The whole key, instead of its parts.")] = None,
) -> Shown:
    """Show which side a key goes to, and why."""
    params = {}
    if operation is not None:
        params["operation"] = operation
    whole = key if key is not None else _join(parts or [])
    if whole is not None:
        params["key"] = whole
    explained = control.get("/v1/explain", params)
    return Shown(explained, lambda out: _print_explained(out, explained))


@asks_control
def audit_command(
    control: Control,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="At most this many entries.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="`next` of the page before.")] = None,
) -> Shown:
    """Show who did what, newest first."""
    page = control.get("/v1/audit", {"limit": str(limit), **({"cursor": cursor} if cursor else {})})
    return Shown(page, lambda out: _print_audit(out, page))


def _join(parts: list[str]) -> str | None:
    if not parts:
        return None
    if len(parts) == 1:
        # A key as logs and policies have it: agent/task.
        return parts[0]
    encoded = [encode_part(part) for part in parts]
    if None in encoded:
        raise CommandError("invalid_value", "each part of a key has 1-256 bytes")
    return "/".join(filter(None, encoded))


def _print_status(out: Console, status: Document) -> None:
    from rich.table import Table

    state = status["state"] if status["why"] is None else f"{status['state']}: {status['why']}"
    age = "" if status["policy_age_s"] is None else f", read {status['policy_age_s']} s ago"
    out.print(plain(f"migration {status['migration']}  epoch {status['epoch']}  {state}{age}"))
    for kill in status["kills"]:
        more = f"  (crossfade trips {kill['evidence']})" if kill["evidence"] else ""
        wide = "" if kill["effective_scope"] == kill["scope"] else f" (covers {kill['effective_scope']})"
        out.print(
            plain(
                f"{kill['kind'].upper()} {kill['scope']}{wide} by {kill['by']} at {kill['at']}: {kill['reason']}{more}"
            )
        )
    for scope in status["break_glass"]:
        out.print(plain(f"break-glass key or file of {scope} is still there"))
    for note in status["notes"]:
        out.print(plain(note))
    groups = Table("group", "writes", "stage", "percent", "dual", "pending", box=None)
    for name, group in status["groups"].items():
        stage = plain(group["stage"]) + (" UNPROTECTED" if group["unprotected"] else "")
        cells = (name, group["writes"], stage, group["percent"], group["dual_percent"], group["pending"])
        groups.add_row(*map(plain, cells))
    out.print(groups)
    out.print(_operations(status))
    workers = Table("worker", "epoch", "age s", "state", box=None)
    for worker in status["workers"]:
        workers.add_row(*(plain(worker[field]) for field in ("id", "epoch", "age_s", "state")))
    out.print(workers)


def _operations(status: Document) -> Table:
    from rich.table import Table

    sides = ("old n/err/p95 ms", "new n/err/p95 ms")
    table = Table("operation", "stage", "percent", "in force", "actual", *sides, "match/susp./mism.", box=None)
    for name, operation in status["operations"].items():
        measured = [_side(operation["sides"][side]) for side in ("old", "new")]
        in_force = "KILLED" if operation["killed"] else operation["effective_percent"]
        cells = (name, operation["stage"], operation["percent"], in_force, operation["actual_percent"])
        table.add_row(*map(plain, cells), *measured, _compared(operation["comparisons"]))
    return table


def _compared(counts: Document) -> str:
    return (
        "" if counts["match"] is None else "/".join(plain(counts[name]) for name in ("match", "suspected", "mismatch"))
    )


def _side(side: Document) -> str:
    return "/".join(plain(side[field]) for field in ("n", "errors", "p95_ms"))


def _print_explained(out: Console, explained: Document) -> None:
    side = explained["side"] or "no side: refused, the key is required"
    out.print(plain(f"{side}, because of {explained['reason']}"))
    for field in ("operation", "key", "stage", "percent", "bucket_ppm", "epoch"):
        out.print(plain(f"  {field:<10} {plain(explained[field])}"))


def _print_audit(out: Console, page: Document) -> None:
    from rich.table import Table

    table = Table("at", "epoch", "by", "action", "target", "changed", "reason", "outcome", box=None)
    for item in page["items"]:
        changed = ", ".join(f"{name}: {delta[0]} -> {delta[1]}" for name, delta in item["changed"].items())
        cells = (item["at"], item["epoch"], item["by"], item["action"], item["target"], changed, item["reason"])
        table.add_row(*map(plain, cells), plain(item["outcome"]))
    out.print(table)
    if page["next"]:
        out.print(plain(f"more: crossfade audit --cursor {page['next']}"))
