"""`crossfade share`, `stage`, `mirror`, `rollback`, `kill`, `rearm`: the commands that move the policy."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from gateway.cli.command import ReasonOption, asks_control
from gateway.cli.connection import Control
from gateway.cli.shown import CommandError, Shown, plain
from gateway.core.model import Stage, Writes
from gateway.core.percent import parse_percent, percent_of
from gateway.core.stages import TABLE, previous_stages, rank

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]

_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?|[+-]?\.[0-9]+", re.ASCII)


def _percent(text: str) -> int | float:
    """The share that the text stands for; a slip is a usage error.

    Raises:
        typer.BadParameter: It is no share.
    """
    # Decimal alone would take 1_0 for 10, and digits of other scripts.
    if not _NUMBER.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no number; write 0-100 with at most 4 decimals")
    number = Decimal(text)
    try:
        return percent_of(parse_percent(number))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


Target = Annotated[
    str, typer.Argument(metavar="OPERATION|GROUP", help="A name, or operation:NAME or group:NAME to be sure.")
]
PercentArgument = Annotated[
    float, typer.Argument(metavar="PERCENT", parser=_percent, help="0-100, at most 4 decimals.")
]
PercentOption = Annotated[
    float | None,
    typer.Option("--percent", parser=_percent, help="Share to come back at; else the first step of the file."),
]
ScopeArgument = Annotated[str, typer.Argument(metavar="SCOPE", help="all, group:NAME or operation:NAME.")]
EpochOption = Annotated[int | None, typer.Option("--epoch", help="Act only if the policy is at this epoch.", min=0)]

_KINDS: Final = {"operation": "operations", "group": "groups"}


@asks_control
def share_command(
    control: Control,
    target: Target,
    percent: PercentArgument,
    reason: ReasonOption,
    skip: Annotated[bool, typer.Option("--skip", help="Although a detector holds; approvers only.")] = False,
    epoch: EpochOption = None,
) -> Shown:
    """Set the share of keys that new answers. Acts in stage live."""
    body: Document = {"percent": percent, "reason": reason}
    return _move(control, target, {**body, "skip": True} if skip else body, epoch)


@asks_control
def stage_command(
    control: Control,
    target: Target,
    stage: Annotated[Stage, typer.Argument(help=f"The stage to enter: {', '.join(Stage)}.")],
    reason: ReasonOption,
    skip: Annotated[bool, typer.Option("--skip", help="Jump over stages on the way forward.")] = False,
    epoch: EpochOption = None,
) -> Shown:
    """Move to another stage. Forward needs an approver."""
    body: Document = {"stage": stage.value, "reason": reason}
    return _move(control, target, {**body, "skip": True} if skip else body, epoch)


@asks_control
def mirror_command(control: Control, target: Target, percent: PercentArgument, epoch: EpochOption = None) -> Shown:
    """Set the share of reads that are mirrored to the other side."""
    return _move(control, target, {"mirror_percent": percent}, epoch)


@asks_control
def rollback_command(control: Control, target: Target, reason: ReasonOption) -> Shown:
    """Go back to the latest stage where old answers everything. Unlike a kill nothing is latched."""
    status = control.get("/v1/status")
    stage = _stage_to_go_back_to(status, target)
    return _move(control, target, {"stage": stage.value, "reason": reason}, status["epoch"])


@asks_control
def kill_command(
    control: Control,
    reason: ReasonOption,
    scope: ScopeArgument = "all",
    accept_data_loss: Annotated[
        bool, typer.Option("--accept-data-loss", help="Also where old lacks what new has written: stage complete.")
    ] = False,
) -> Shown:
    """Return to old at once. Stays in force until it is re-armed."""
    body: Document = {"scope": scope, "reason": reason}
    if accept_data_loss:
        body["accept_data_loss"] = True
    killed = control.send("POST", "/v1/kills", body)
    return Shown(killed, lambda out: _print_killed(out, killed))


@asks_control
def rearm_command(
    control: Control,
    scope: ScopeArgument,
    reason: ReasonOption,
    percent: Annotated[
        float | None,
        typer.Option("--percent", parser=_percent, help="Share to come back at; else the first step of the file."),
    ] = None,
) -> Shown:
    """Remove exactly one kill. Needs an approver."""
    body: Document = {"reason": reason}
    if percent is not None:
        body["percent"] = percent
    rearmed = control.send("DELETE", f"/v1/kills/{quote(scope, safe='')}", body)
    return Shown(rearmed, lambda out: _print_rearmed(out, rearmed))


def _move(control: Control, target: str, body: Document, epoch: int | None) -> Shown:
    changed = _patch(control, target, body, epoch)
    return Shown(changed, lambda out: _print_changed(out, changed))


def _patch(control: Control, target: str, body: Document, epoch: int | None) -> Document:
    """Changes an operation, or the group of that name where there is no such operation."""
    kind, colon, name = target.partition(":")
    if colon and kind in _KINDS:
        return control.send("PATCH", f"/v1/{_KINDS[kind]}/{quote(name, safe='')}", body, epoch=epoch)
    try:
        return control.send("PATCH", f"/v1/operations/{quote(target, safe='')}", body, epoch=epoch)
    except CommandError as exc:
        if exc.code != "unknown_operation":
            raise
    try:
        return control.send("PATCH", f"/v1/groups/{quote(target, safe='')}", body, epoch=epoch)
    except CommandError as exc:
        if exc.code != "unknown_group":
            raise
        message = f"there is no operation and no group {target!r}; crossfade status lists them"
        raise CommandError("unknown_operation", message) from exc


def _stage_to_go_back_to(status: Document, target: str) -> Stage:
    """The latest stage in which old answers, for every operation that is meant."""
    kind, colon, rest = target.partition(":")
    name = rest if colon and kind in _KINDS else target
    operations: Document = status["operations"]
    if kind != "group" and name in operations:
        members = [operations[name]]
    else:
        members = [operation for operation in operations.values() if operation["group"] == name]
    if not members:
        raise CommandError("unknown_operation", f"there is no operation and no group {name!r}")
    return min((_back_from(status, member) for member in members), key=rank)


def _back_from(status: Document, operation: Document) -> Stage:
    stage = Stage(operation["stage"])
    if rank(stage) < rank(Stage.LIVE):
        return stage
    group = status["groups"].get(operation["group"])
    earlier = previous_stages(Writes(group["writes"]) if group else Writes.SHARED, stage)
    available = [s for s in earlier if TABLE[s].available]
    if not available:
        raise CommandError(
            "rule_violation", f"there is no way back from stage {stage}; crossfade kill --accept-data-loss"
        )
    return max(available, key=rank)


def _print_changed(out: Console, changed: Document) -> None:
    if not changed["changed"]:
        out.print(plain(f"{changed['name']}: nothing to change; epoch {changed['epoch']}"))
    for field, delta in changed["changed"].items():
        out.print(plain(f"{changed['name']}: {field} {plain(delta['before'])} -> {plain(delta['after'])}"))
    if changed["changed"]:
        out.print(plain(f"epoch {changed['epoch']}"))
    if changed.get("unprotected"):
        out.print("UNPROTECTED: writes are not copied to the other side; a return to old loses what new has written")


def _print_killed(out: Console, killed: Document) -> None:
    already = "" if killed["changed"] else "already "
    out.print(plain(f"{already}killed: {killed['effective_scope']}; epoch {killed['epoch']}"))
    if killed["effective_scope"] != killed["scope"]:
        out.print(plain(f"{killed['scope']} shares its fate with {killed['effective_scope']}"))
    out.print(plain(f"to come back: crossfade rearm {killed['scope']} --reason …"))


def _print_rearmed(out: Console, rearmed: Document) -> None:
    out.print(plain(f"re-armed: {rearmed['scope']}; epoch {rearmed['epoch']}"))
    for field, delta in rearmed["changed"].items():
        if field != "killed":
            out.print(plain(f"  {field} {plain(delta['before'])} -> {plain(delta['after'])}"))
    for scope in rearmed["still_killed_by"]:
        out.print(plain(f"still killed by {scope}"))
