"""`crossfade approach1`, `approach2` and `fake-e2b`: what is bundled, alone, as its own module runs it."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

Arguments = Annotated[list[str] | None, typer.Argument(help="Passed on; `-- --help` shows them.", metavar="OPTIONS")]


def approach1_command(arguments: Arguments = None) -> None:
    """Run the old service alone: one sandbox for each agent and task, one instance."""
    _become("backends.approach1", arguments or [])


def approach2_command(arguments: Arguments = None) -> None:
    """Run the new service alone: the service layer, any number of instances."""
    _become("backends.approach2", arguments or [])


def fake_e2b_command(arguments: Arguments = None) -> None:
    """Run an E2B-compatible server on this machine, to try things out; its commands run here, without isolation."""
    _become("backends.common.fake_e2b", arguments or [])


def _become(module: str, arguments: list[str]) -> NoReturn:
    # The same process: signals and exit code are the service's own. -P: see gateway/cli/machine.py.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell
