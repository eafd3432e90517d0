"""`crossfade token create|list|revoke`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.duration import parse_duration
from gateway.cli.shown import CommandError, Shown, plain, warn
from gateway.core.roles import Role

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Create, list and revoke operator tokens. Needs an approver.",
)


def _role(text: str) -> Role:
    try:
        return Role.parse(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


@app.command("create")
@asks_control
def create_command(
    control: Control,
    name: Annotated[str, typer.Argument(help="Who will hold it; stands in the audit.")],
    role: Annotated[str, typer.Option("--role", help="viewer, operator or approver.")],
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="How long it lasts, such as 12h or 30d; else for ever.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this new file, 0600, instead.")] = None,
) -> Shown:
    """Create a token. Its secret is shown this once."""
    body: Document = {"name": name, "role": str(_role(role))}
    if ttl is not None:
        body["ttl_s"] = parse_duration(ttl, "--ttl")
    descriptor = _open_new(out) if out is not None else None
    try:
        made = control.send("POST", "/v1/tokens", body)
    except CommandError:
        if out is not None and descriptor is not None:
            os.close(descriptor)
            out.unlink()
        raise
    if out is None or descriptor is None:
        return Shown(made, lambda console: _print_made(console, made))
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(made["token"] + "\n")
    kept = {**{field: made[field] for field in ("name", "role", "expires_at")}, "token_file": str(out)}
    return Shown(kept, lambda console: console.print(plain(f"the token of {name} is in {out}")))


@app.command("list")
@asks_control
def list_command(control: Control) -> Shown:
    """List all tokens, without their secrets."""
    listed = control.get("/v1/tokens")
    return Shown(listed, lambda out: _print_list(out, listed))


@app.command("revoke")
@asks_control
def revoke_command(control: Control, name: Annotated[str, typer.Argument(help="Of the token.")]) -> Shown:
    """End a token at once."""
    if not _NAME.fullmatch(name):
        raise CommandError("unknown_token", f"there is no token named {name!r}")
    revoked = control.send("DELETE", f"/v1/tokens/{quote(name, safe='')}")
    return Shown(revoked, lambda out: out.print(plain(f"the token of {name} is no more")))


def _open_new(path: Path) -> int:
    """Made before the token is: a secret that cannot be kept must not be made."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise CommandError("failed", f"{path} cannot be made: {exc.strerror}") from exc


def _print_made(out: Console, made: Document) -> None:
    warn(f"the token of {plain(made['name'])} ({plain(made['role'])}); it is not shown again:")
    out.print(plain(made["token"]))


def _print_list(out: Console, listed: Document) -> None:
    from rich.table import Table

    table = Table("name", "role", "created", "expires", "sha-256", box=None)
    for item in listed["items"]:
        cells = (item["name"], item["role"], item["created_at"], item["expires_at"] or "never", item["digest_prefix"])
        table.add_row(*map(plain, cells))
    out.print(table)
