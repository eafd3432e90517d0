"""`crossfade approach1` and `approach2`: the bundled services alone, as their own modules run them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final, NoReturn

import typer

Arguments = Annotated[
    list[str] | None, typer.Argument(help="Passed on; `-- --help` shows them.", metavar="[-- OPTIONS]")
]
_MODULE: Final = "backends.{service}"


def approach1_command(arguments: Arguments = None) -> None:
    """Run the old service alone: one sandbox for each agent and task, one instance."""
    _become("approach1", arguments or [])


def approach2_command(arguments: Arguments = None) -> None:
    """Run the new service alone: the service layer, any number of instances."""
    _become("approach2", arguments or [])


def _become(service: str, arguments: list[str]) -> NoReturn:
    # The same process: signals and exit code are the service's own. -P: see gateway/cli/machine.py.
    os.execv(sys.executable, [sys.executable, "-P", "-m", _MODULE.format(service=service), *arguments])  # noqa: S606 - no shell
