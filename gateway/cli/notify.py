"""`crossfade notify`: tries whether notifications arrive."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.shown import Shown, plain


@asks_control
def notify_command(
    control: Control, reason: Annotated[str, typer.Option("--reason", help="What the message says.")]
) -> Shown:
    """Send a test to every target of notifications in the migration file."""
    answer = control.send("POST", "/v1/notifications", {"reason": reason})
    said = f"{answer['targets']} targets are told; crossfade status says which cannot be reached"
    return Shown(answer, lambda out: out.print(plain(said)))
