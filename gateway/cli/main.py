"""`crossfade`: the table of commands. Each is loaded when it is called, so that `--help` is quick."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

from gateway.cli.later import LATER, later_command
from gateway.cli.shown import ExitCode

PROGRAM: Final = "crossfade"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command.

    Attributes:
        about: One line.
        module: Where its function is.
        function: Its function, or a `typer.Typer` with several.
        takes_anything: It passes its options on.
    """

    about: str
    module: str
    function: str
    takes_anything: bool = False


COMMANDS: Final[dict[str, Entry]] = {
    "up": Entry("Run everything on this machine.", "gateway.cli.up", "up_command"),
    "gateway": Entry("Run gateway workers alone.", "gateway.cli.up", "gateway_command"),
    "control": Entry("Run the control process alone.", "gateway.cli.up", "control_command"),
    "approach1": Entry("Run the old service alone.", "gateway.cli.services", "approach1_command", takes_anything=True),
    "approach2": Entry("Run the new service alone.", "gateway.cli.services", "approach2_command", takes_anything=True),
    "fake-e2b": Entry(
        "Run an E2B-compatible server here.", "gateway.cli.services", "fake_e2b_command", takes_anything=True
    ),
    "status": Entry("Show the state of everything.", "gateway.cli.look", "status_command"),
    "explain": Entry("Show which side a key goes to, and why.", "gateway.cli.look", "explain_command"),
    "audit": Entry("Show who did what, newest first.", "gateway.cli.look", "audit_command"),
    "share": Entry("Set the share of keys that new answers.", "gateway.cli.policy", "share_command"),
    "stage": Entry("Move to another stage.", "gateway.cli.policy", "stage_command"),
    "mirror": Entry("Set the share of reads that are mirrored.", "gateway.cli.policy", "mirror_command"),
    "rollback": Entry("Go back to the stage where old answers.", "gateway.cli.policy", "rollback_command"),
    "kill": Entry("Return to old at once; stays until re-armed.", "gateway.cli.policy", "kill_command"),
    "rearm": Entry("Remove exactly one kill.", "gateway.cli.policy", "rearm_command"),
    "comparisons": Entry("Show where answers of both sides differ.", "gateway.cli.comparisons", "comparisons_command"),
    "noise": Entry("Show what differs within one side; accept it.", "gateway.cli.comparisons", "noise_command"),
    "consistency": Entry("Show how far both sides hold the same.", "gateway.cli.comparisons", "consistency_command"),
    "trips": Entry("Show what detectors saw when they took new out.", "gateway.cli.trips", "trips_command"),
    "notify": Entry("Send a test to every target of notifications.", "gateway.cli.notify", "notify_command"),
    "drill": Entry("Rehearse a rollback with a fault injected, timed.", "gateway.cli.drill", "drill_command"),
    "simulate": Entry(
        "Show what the detectors would do with some traffic.", "gateway.cli.simulate", "simulate_command"
    ),
    "apply": Entry("Make a migration file current.", "gateway.cli.apply", "apply_command"),
    "check-config": Entry(
        "Check a migration file and show what it means.", "gateway.cli.check_config", "check_config_command"
    ),
    "check-credentials": Entry(
        "Have both sides list remotes with their own credential.",
        "gateway.cli.check_credentials",
        "check_credentials_command",
    ),
    "restart": Entry("Replace the gateway workers one at a time.", "gateway.cli.up", "restart_command"),
    "token": Entry("Create, list and revoke operator tokens.", "gateway.cli.tokens", "app"),
    "force": Entry("Sign a Crossfade-Force header for testers.", "gateway.cli.force", "force_command"),
    "demo": Entry("Watch a dozen agents work while shares move.", "gateway.cli.demo", "demo_command"),
    "version": Entry("Show the version.", "gateway.cli.version", "version_command"),
}


class LazyGroup(TyperGroup):
    """All commands; only the called one is imported."""

    _is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer's signature
        """See TyperGroup."""
        return [*COMMANDS, *LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - typer's signature
        """See TyperGroup."""
        if cmd_name not in COMMANDS and cmd_name not in LATER:
            return None
        return _stub(cmd_name) if self._is_listing else load(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer keeps the types to itself
        """See TyperGroup. The list needs one line of each command, not its module."""
        self._is_listing = True
        try:
            super().format_commands(ctx, formatter)
        finally:
            self._is_listing = False


def load(name: str) -> Any:  # noqa: ANN401 - typer keeps the type to itself
    """Imports a command."""
    if name in LATER:
        return _single(name, later_command(name), LATER[name], takes_anything=True)
    entry = COMMANDS[name]
    try:
        found = getattr(importlib.import_module(entry.module), entry.function)
    except ModuleNotFoundError as exc:
        if exc.name != entry.module:
            raise
        return _single(name, later_command(name), entry.about, takes_anything=True)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    return _single(name, found, None, takes_anything=entry.takes_anything)


def _single(name: str, function: Callable[..., None], about: str | None, *, takes_anything: bool = False) -> Any:  # noqa: ANN401 - typer keeps the type to itself
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, help=about, context_settings={"ignore_unknown_options": takes_anything})(function)
    return typer.main.get_command(app)


def _stub(name: str) -> Any:  # noqa: ANN401 - typer keeps the type to itself
    about = LATER[name] if name in LATER else COMMANDS[name].about
    return _single(name, lambda: None, about)


def group() -> LazyGroup:
    """The command line."""
    return LazyGroup(
        name=PROGRAM,
        help="A migration gateway: one URL in front of an old and a new service.",
        rich_markup_mode=None,
        no_args_is_help=True,
        suggest_commands=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    arguments = [_readable(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    if sys.stdout is None:
        # Closed by whoever started us: a command is carried out all the same.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the life of the process
    try:
        group().main(args=arguments, prog_name=PROGRAM)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == ExitCode.USAGE and "--json" in arguments:
            # Whoever asked for a document gets one; what is wrong stands on standard error.
            sys.stdout.write(json.dumps({"code": "usage", "detail": "see standard error"}) + "\n")
        return code
    return ExitCode.OK


def _readable(argument: str) -> str:
    """An argument that can be sent and shown, whatever bytes a terminal made of it: a kill must not fail on its reason.

    But a path stays what it is.
    """
    if argument.isprintable() or os.path.lexists(argument):
        return argument
    return argument.encode(errors="surrogateescape").decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
