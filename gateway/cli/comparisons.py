"""`crossfade comparisons`, `noise`, `consistency`: what mirrored reads have shown."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO
from urllib.parse import quote

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.shown import CommandError, Shown, plain

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]

_REPLAY: Final = "replay"
_PAGE: Final = 500
_SHOWN: Final = Decimal("0.0001")


@asks_control
def comparisons_command(
    control: Control,
    replay: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[replay OPERATION PATH=WORD[+WORD]…]",
            help="Instead: what these relaxations would make of the differences that are kept. The words: shape, "
            "order, presence, length, null, number.",
        ),
    ] = None,
    operation: Annotated[str | None, typer.Option("--operation", help="Of this operation alone.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="At most this many groups.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="`next` of the page before.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write all of them there, one JSON object a line.")
    ] = None,
) -> Shown:
    """Show where answers of both sides differ, grouped, last seen first."""
    if replay:
        return _replay(control, replay)
    if export is not None:
        return _export(control, operation, export)
    params = {"limit": str(limit)}
    params |= {"operation": operation} if operation else {}
    params |= {"cursor": cursor} if cursor else {}
    page = control.get("/v1/comparisons", params)
    return Shown(page, lambda out: _print_groups(out, page))


@asks_control
def noise_command(
    control: Control,
    change: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[accept|drop OPERATION PATH…]",
            help="Instead: accept proposals, or take accepted ones back. Needs --reason.",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; stands in the audit.")] = None,
) -> Shown:
    """Show which parts of answers differ between two answers of one side, and what was accepted."""
    if change:
        return _change_noise(control, change, reason)
    noise = control.get("/v1/noise")
    return Shown(noise, lambda out: _print_noise(out, noise["items"]))


@asks_control
def consistency_command(control: Control) -> Shown:
    """Show how far both sides hold the same, in the last 24 hours."""
    found = control.get("/v1/consistency")
    return Shown(found, lambda out: _print_consistency(out, found["items"]))


# --- doing ---------------------------------------------------------------------------------------------------------


def _groups(control: Control, operation: str | None) -> list[Document]:
    """All of them, last seen first."""
    groups: list[Document] = []
    cursor: str | None = None
    while True:
        # By name: groups that are seen again meanwhile do not move, so none is missed and none comes twice.
        params = {"limit": str(_PAGE), "order": "signature"}
        params |= {"operation": operation} if operation else {}
        params |= {"cursor": cursor} if cursor else {}
        page = control.get("/v1/comparisons", params)
        groups += page["items"]
        cursor = page["next"]
        if cursor is None:
            return sorted(groups, key=lambda group: (-group["last_seen"], group["signature"]))


def _replay(control: Control, arguments: list[str]) -> Shown:
    from gateway.core.compare.evidence import replayed
    from gateway.core.compare.rules import PathError, Relax, split_path

    if arguments[0] != _REPLAY or len(arguments) < 3:
        raise typer.BadParameter("write: crossfade comparisons replay OPERATION PATH=WORD[+WORD] …")
    relaxed: dict[str, Relax] = {}
    for text in arguments[2:]:
        path, _, word = text.rpartition("=")
        try:
            split_path(path)
            relaxed[path] = Relax(word)
        except (PathError, ValueError) as exc:
            raise typer.BadParameter(f"{text[:80]}: write such as $.commits[*].date=shape") from exc
    judged = replayed(_groups(control, arguments[1]), relaxed)
    return Shown({"items": judged}, lambda out: _print_replayed(out, judged))


def _export(control: Control, operation: str | None, file: Path) -> Shown:
    groups = _groups(control, operation)
    try:
        with _replaced(file) as target:
            target.writelines(json.dumps(group) + "\n" for group in groups)
    except OSError as exc:
        raise CommandError("failed", f"{file} cannot be written: {exc.strerror}") from exc
    count = len(groups)
    return Shown({"file": str(file), "groups": count}, lambda out: out.print(plain(f"{count} groups in {file}")))


@contextmanager
def _replaced(file: Path) -> Iterator[TextIO]:
    """A file that its owner alone may read; it takes the place of one that is there when it is whole."""
    file = file.resolve()
    if file.exists() and not stat.S_ISREG(file.stat().st_mode):
        # A pipe or a terminal: there is nothing to replace.
        with file.open("w", encoding="utf-8") as target:
            yield target
        return
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as target:
            yield target
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _change_noise(control: Control, arguments: list[str], reason: str | None) -> Shown:
    if arguments[0] not in ("accept", "drop") or len(arguments) < 3:
        raise typer.BadParameter("write: crossfade noise accept|drop OPERATION PATH … --reason …")
    if reason is None:
        raise typer.BadParameter("say why: --reason …")
    word, operation, *paths = arguments
    changed = control.send("PATCH", f"/v1/noise/{quote(operation, safe='')}", {word: paths, "reason": reason})
    return Shown(changed, lambda out: _print_noise(out, [changed]))


# --- printing ------------------------------------------------------------------------------------------------------


def _print_groups(out: Console, page: Document) -> None:
    from rich.table import Table

    table = Table("group", "operation", "differs", "mismatch", "suspected", "gone", "last seen", "such as", box=None)
    for group in page["items"]:
        differs = ", ".join(_difference(found) for found in group["differences"][:5])
        more = len(group["differences"]) - 5
        cells = (
            *(group["signature"], group["operation"], differs + (f" and {more} more" if more > 0 else "")),
            *(group["mismatch"], group["suspected"], group["refuted"]),
            *(_time(group["last_seen"]), group["request_ids"][-1] if group["request_ids"] else None),
        )
        table.add_row(*map(plain, cells))
    out.print(table if page["items"] else "no difference is kept")
    if page["next"]:
        out.print(plain(f"more: crossfade comparisons --cursor {page['next']}"))


def _difference(found: Mapping[str, str]) -> str:
    shapes = f" ({found['left']} -> {found['right']})" if found["left"] != found["right"] else ""
    return f"{found['path']} {found['kind']}{shapes}"


def _print_replayed(out: Console, judged: list[Document]) -> None:
    from rich.table import Table

    table = Table("group", "mismatch", "suspected", "would pass", "left", box=None)
    for group in judged:
        cells = (group["signature"], group["mismatch"], group["suspected"], "yes" if group["passes"] else "no")
        table.add_row(*map(plain, cells), plain(", ".join(group["left"])))
    out.print(table)


def _print_noise(out: Console, items: list[Document]) -> None:
    from rich.table import Table

    table = Table("operation", "pairs", "part", "seen", "state", box=None)
    for item in items:
        if item["is_too_noisy"]:
            table.add_row(*map(plain, (item["operation"], item["pairs"], "", "", "too noisy: not comparable")))
        for path, relax in item["accepted"].items():
            table.add_row(*map(plain, (item["operation"], item["pairs"], path, "", f"accepted: {', '.join(relax)}")))
        for found in item["proposals"]:
            cells = (item["operation"], item["pairs"], found["path"], found["seen"], _proposed(found))
            table.add_row(*map(plain, cells))
        if not (item["is_too_noisy"] or item["accepted"] or item["proposals"]):
            table.add_row(*map(plain, (item["operation"], item["pairs"], "", "", "no noise seen")))
    out.print(table)


def _proposed(found: Document) -> str:
    if found["is_held"]:
        return "held: differs more between the sides than within one"
    return f"proposed: {found['relax']}" if found["relax"] else "cannot be relaxed"


def _print_consistency(out: Console, items: list[Document]) -> None:
    from rich.table import Table

    table = Table("", "agreed", "mismatches", "agreement", "at least (95 %)", "since", "not compared", box=None)
    for item in items:
        reasons = ", ".join(f"{why}: {count}" for why, count in sorted(item["incomparable"].items()))
        cells = (item["target"], item["matches"], item["mismatches"])
        shares = (percent_text(item["read_agreement"]), percent_text(item["read_agreement_at_least"]))
        since = None if item["since"] is None else _time(item["since"])
        table.add_row(*map(plain, (*cells, *shares, since, reasons)))
    out.print(table)
    out.print("of the last 24 hours; other rules of an operation begin its figure anew")


def percent_text(share: float | None) -> str | None:
    """A share in percent, cut and never rounded up: what is not 100 % must not look like it."""
    if share is None:
        return None
    return f"{(100 * Decimal(repr(share))).quantize(_SHOWN, ROUND_FLOOR)} %"


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
