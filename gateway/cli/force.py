"""`crossfade force`: signs a `Crossfade-Force` header for testers, with the secret of this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.command import DataDirOption, shows
from gateway.cli.connection import Place
from gateway.cli.duration import parse_duration
from gateway.cli.shown import CommandError, Shown
from gateway.core.force import sign
from gateway.core.model import Side

_SECRET_FILE: Final = "force.secret"  # noqa: S105 - a file's name
_VARIABLE: Final = "CROSSFADE_FORCE_SECRET"
_LONGEST_S: Final = 7 * 86_400


@shows
def force_command(
    side: Annotated[Side, typer.Argument(help="The side to force.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long it is valid, such as 15m or 1h; 7d at most.")] = "1h",
    migration: Annotated[str | None, typer.Option("--migration-name", help="Else the one that runs here.")] = None,
    data_dir: DataDirOption = None,
) -> Shown:
    """Sign a Crossfade-Force header: reads with it go to one side, unless a kill or pending writes forbid."""
    seconds = parse_duration(ttl, "--ttl")
    if seconds > _LONGEST_S:
        raise typer.BadParameter("7d is the longest", param_hint="--ttl")
    place = Place(data_dir=data_dir)
    name = migration or _migration(place)
    expires_at = int(time.time()) + seconds
    value = sign(_secret(place), name, side, expires_at)
    document = {"header": "Crossfade-Force", "value": value, "side": side.value, "expires_at": expires_at}
    return Shown(document, lambda out: out.print(f"Crossfade-Force: {value}"))


def _migration(place: Place) -> str:
    runtime: dict[str, Any] | None = place.runtime()
    if runtime is None or "migration" not in runtime:
        raise CommandError(
            "failed", f"crossfade does not run on {place.directory}; name the migration: --migration-name"
        )
    return str(runtime["migration"])


def _secret(place: Place) -> bytes:
    """As the gateways of this data directory have it, or from the environment as theirs is."""
    given = os.environ.get(_VARIABLE)
    if given:
        return given.strip().encode()
    path = Path(os.environ.get(f"{_VARIABLE}_FILE") or _from_parts(place) or place.directory / _SECRET_FILE)
    try:
        secret = path.read_bytes().strip()
    except OSError as exc:
        raise CommandError("failed", f"the force secret {path} cannot be read: {exc.strerror}") from exc
    if not secret:
        raise CommandError("failed", f"the force secret {path} is empty")
    return secret


def _from_parts(place: Place) -> str | None:
    try:
        content = json.loads((place.directory / "parts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = content.get("force_secret_file")
    return found if isinstance(found, str) else None
