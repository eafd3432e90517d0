"""Commands of the contract that this version does not have yet: they say so, and fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import typer

from gateway.cli.command import shows
from gateway.cli.shown import CommandError, Shown

LATER: Final[dict[str, str]] = {
    "relay": "Not yet available: apply copied writes to the other side.",
    "promote": "Not yet available: go to the next share once its gate is open.",
    "hold": "Not yet available: keep detectors and promotions from acting.",
    "writes": "Not yet available: show copied writes.",
    "reconcile": "Not yet available: compare and repair both sides.",
    "backfill": "Not yet available: copy older data to the new side.",
}


def later_command(name: str) -> Callable[..., None]:
    """The command that says that `name` is not there yet."""

    def later(_arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> Shown:
        raise CommandError("not_yet_available", f"crossfade {name} is not yet available in this version")

    return shows(later)
