"""`crossfade drill`: a rehearsed rollback, watched from its beginning to its report."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.plot import Line, Mark, Plot
from gateway.cli.shown import CommandError, ExitCode, Shown, plain

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]

FAULTS: Final = ("errors", "slow", "hang", "down", "mismatch")
_FLIPS: Final = "flips"
_LOAD: Final = 100
_CHAOS_LOAD: Final = 30
"""Half of it are writes."""
_LOOK_S: Final = 0.5
_ENDED: Final = "ended"
_DIGITS: Final = re.compile("[0-9]+")
_LOST_LIMIT: Final = 20
"""How often in a row control may be away while a drill is watched."""
_PHASES: Final = {
    "preparing": "prepares",
    "arming": "waits for the detectors",
    "fault": "fault is on; waits for the trip",
    "zero": "tripped; waits until no worker sends anything to new",
    "recovering": "new is out; waits for good answers",
    "flipping": "flips",
    "checking": "asks about every key once more",
    _ENDED: "ended",
}


@asks_control
def drill_command(
    control: Control,
    fault: Annotated[str | None, typer.Option("--fault", help="One of errors, slow, hang, down, mismatch.")] = None,
    operation: Annotated[
        str | None, typer.Option("--operation", help="What to drill; else the first read that is live.")
    ] = None,
    load: Annotated[
        int | None,
        typer.Option(
            "--load",
            min=0,
            max=1000,
            help="Requests a second, on keys of its own; else 100, with --chaos 30.",
        ),
    ] = None,
    share: Annotated[
        str, typer.Option("--share", metavar="PERCENT", help="Share of clients' keys that see the fault as well.")
    ] = "0",
    is_chaos: Annotated[
        bool, typer.Option("--chaos", help="In place of a fault: flip the share to and fro under load.")
    ] = False,
    every_s: Annotated[int, typer.Option("--every", min=1, max=600, help="With --chaos: s between two flips.")] = 30,
    for_s: Annotated[int, typer.Option("--for", min=3, max=3600, help="With --chaos: s in all.")] = 300,
    arm_s: Annotated[int, typer.Option("--arm", min=1, max=3600, help="Longest wait for armed detectors, s.")] = 180,
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the audit.")] = "rehearsal",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write report.txt, report.json, report.svg there.")
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Instead: show the drills that were.")] = False,
    end: Annotated[str | None, typer.Option("--end", metavar="ID", help="Instead: end a drill at once.")] = None,
) -> Shown:
    """Rehearse a rollback: inject a fault on the way to new, time what follows, put everything back.

    With --chaos nothing is made to fail: the share goes to 0 and back again and again, and no call may.
    """
    if is_list:
        found = control.get("/v1/drills")
        return Shown(found, lambda out: _print_list(out, found["items"]))
    if end is not None:
        report = control.send("DELETE", f"/v1/drills/{quote(end, safe='')}")
        return Shown(report, lambda out: _print_report(out, report))
    if is_chaos == (fault is not None):
        raise CommandError("usage", f"write either --chaos or --fault with one of {', '.join(FAULTS)}")
    if fault is not None and fault not in FAULTS:
        raise CommandError("usage", f"--fault: write one of {', '.join(FAULTS)}")
    load = load if load is not None else _CHAOS_LOAD if is_chaos else _LOAD
    body: Document = {"load": load, "share_percent": _percent(share), "reason": reason}
    body |= {"fault": fault, "arm_s": arm_s} if fault else {"fault": _FLIPS, "every_s": every_s, "for_s": for_s}
    body |= {"operation": operation} if operation else {}
    begun = control.send("POST", "/v1/drills", body)
    report = _watch(control, str(begun["id"]))
    if out is not None:
        write_report(out, report)
    code = ExitCode.OK if report["passed"] else ExitCode.FAILED
    return Shown(report, lambda out: _print_report(out, report), code)


def _percent(text: str) -> float | int:
    try:
        value = float(text)
    except ValueError as exc:
        raise CommandError("usage", f"--share {text[:40]}: write a number from 0 to 100") from exc
    return int(value) if value.is_integer() else value


def _watch(control: Control, drill: str) -> Document:
    """Follows a drill to its end. Ctrl-C ends the drill, not only the watching."""
    told, lost = "", 0
    try:
        while True:
            try:
                report, lost = control.get(f"/v1/drills/{drill}"), 0
            except CommandError:
                lost += 1
                if lost > _LOST_LIMIT:
                    raise
                time.sleep(_LOOK_S)
                continue
            said = f"{_PHASES[report['phase']]}{': ' + report['why'] if report['why'] else ''}"
            # Not again for every second that it counts down.
            gist = _DIGITS.sub("", said)
            if gist != told and report["phase"] != _ENDED:
                sys.stderr.write(plain(f"drill {drill}: {said}") + "\n")
                told = gist
            if report["phase"] == _ENDED:
                return report
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        sys.stderr.write(f"drill {drill}: ends\n")
        return control.send("DELETE", f"/v1/drills/{drill}")


# --- showing -------------------------------------------------------------------------------------------------------


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report in words."""
    requests = report["requests"]
    verdict = "passed" if report["passed"] else "FAILED" if report["passed"] is False else "is on"
    lines = [f"drill {report['id']} {verdict}: {report['fault']} on {report['operation']}, {report['at']}"]
    if report["why"]:
        lines.append(f"  why             {report['why']}")
    if report["fault"] == _FLIPS:
        lines += _chaos_lines(report.get("chaos"))
    else:
        lines += _fault_lines(report)
    if requests:
        lines.append(
            f"  requests        {requests['sent']} sent, {requests['failed']} failed and {requests['late']} late "
            f"since the fault, {requests['failed_before']} failed before"
            if report["fault"] != _FLIPS
            else f"  requests        {requests['sent']} sent, {requests['failed']} failed"
        )
    if report["restored"] is not None:
        lines.append(f"  put back        {'all' if report['restored'] else 'NOT all; see why'}")
    return lines


def _chaos_lines(chaos: Mapping[str, Any] | None) -> list[str]:
    if chaos is None:
        return []
    lines = [
        f"  flips           {max(0, len(chaos['flips']) - 1)}, one every {chaos['every_s']:g} s; "
        f"{chaos['keys']} keys; writes: {', '.join(chaos['writes']) or 'none'}",
        f"  failed calls    {_counted(chaos['failed'])}; {chaos['retried']} found another one under way first",
        f"  stuck keys      {', '.join(chaos['stuck']) or 'none'}",
        f"  locks left      {', '.join(chaos['locked']) or 'none'}",
    ]
    return [*lines, *map(_flip_line, chaos["flips"])]


def _flip_line(row: Mapping[str, Any]) -> str:
    took = f"P50 {_ms(row['p50_ms'])}, P95 {_ms(row['p95_ms'])}, longest {_ms(row['max_ms'])}"
    late = f"; the last that still went the other way after {_seconds(row['late_s'])}" if row["late_s"] else ""
    return f"  {row['at_s']:>6.1f} s to {row['to']}  {row['calls']} calls, {row['failed']} failed, {took}{late}"


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none"


def _fault_lines(report: Mapping[str, Any]) -> list[str]:
    times = report["times"]
    lines = [f"  tripped         {report['scope']}: {report['trip']}"] if report["trip"] else []
    lines += [
        f"  armed after     {_seconds(report['armed_after_s'])}",
        f"  fault -> trip   {_seconds(times['to_trip_s'])}",
        f"  fault -> zero   {_seconds(times['to_zero_s'])}   (the last request that any worker started on new)",
        f"  fault -> good   {_seconds(times['to_recovery_s'])}   (the last bad answer that a client of the drill got)",
    ]
    lines += [
        f"  {worker['id']:<15} new out after {_seconds(worker['out_after_s'])}, last request on new after "
        f"{_seconds(worker['last_on_new_after_s'])}, {worker['faults']} requests met the fault"
        for worker in report["workers"]
    ]
    return lines


def report_plot(report: Mapping[str, Any]) -> Plot | None:
    """What the drill's own requests saw, over time; None: it had none."""
    series, times = report["series"], report["times"]
    if not series:
        return None
    slot_s, from_s = series["slot_s"], series["from_s"]
    names = {"old": "answered by old", "new": "answered by new", "failed": "failed or late"}
    lines = [
        Line(name, [(from_s + (at + 0.5) * slot_s, count / slot_s) for at, count in enumerate(series[key])], key)
        for key, name in names.items()
    ]
    if report["fault"] == _FLIPS:
        marks = [Mark(row["at_s"], f"to {row['to']}") for row in (report.get("chaos") or {"flips": []})["flips"]]
    else:
        marks = [Mark(0.0, "fault")]
        marks += [Mark(times["to_trip_s"], "trip")] if times["to_trip_s"] is not None else []
    title = f"drill {report['id']}: {report['fault']} on {report['operation']}"
    return Plot(
        title,
        "seconds" if report["fault"] == _FLIPS else "seconds since the fault",
        "requests per second",
        lines,
        marks,
    )


def write_report(directory: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as text, JSON and plot.

    Raises:
        CommandError: It cannot be written.
    """
    plot = report_plot(report)
    files = {"report.txt": "\n".join(report_lines(report)) + "\n", "report.json": json.dumps(report, indent=1) + "\n"}
    files |= {"report.svg": plot.svg()} if plot is not None else {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as exc:
        raise CommandError("not_written", f"{directory}: the report cannot be written: {exc.strerror}") from exc


def _print_report(out: Console, report: Mapping[str, Any]) -> None:
    _print(out.print, report_lines(report))


def _print_list(out: Console, reports: list[Document]) -> None:
    if not reports:
        out.print("no drill yet; crossfade drill --fault errors")
    for report in reports:
        _print(out.print, report_lines(report)[:1])


def _print(write: Callable[..., None], lines: list[str]) -> None:
    for line in lines:
        write(plain(line), markup=False, highlight=False, soft_wrap=True)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
