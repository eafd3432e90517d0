"""Makes a command out of a function that takes the control API and returns what to show.

Adds the options that all such commands have, finds control, prints, and turns errors into exit codes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from gateway.cli.connection import Control, Place
from gateway.cli.shown import CommandError, ExitCode, Shown, show, show_error

ControlOption = Annotated[
    str | None,
    typer.Option("--control", metavar="URL", help="The control API; else CROSSFADE_CONTROL_URL, else this machine's."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="Holds the token; else CROSSFADE_TOKEN_FILE, else this machine's."
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Of `crossfade up`; else CROSSFADE_DATA_DIR, else .crossfade."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; stands in the audit. 1-500 characters.")]

_SHARED: Final[dict[str, tuple[Any, Any]]] = {
    "control_url": (ControlOption, None),
    "token_file": (TokenFileOption, None),
    "data_dir": (DataDirOption, None),
    "as_json": (JsonOption, False),
}


def asks_control(function: Callable[..., Shown]) -> Callable[..., None]:
    """Makes a command of a function whose first parameter is the `Control` to ask."""

    def run(options: dict[str, Any], arguments: dict[str, Any]) -> Shown:
        place = Place(options["control_url"], options["token_file"], options["data_dir"])
        return function(Control(place), **arguments)

    return _command(function, _SHARED, run, skipped=1)


def shows(function: Callable[..., Shown]) -> Callable[..., None]:
    """Makes a command of a function that needs no control; adds `--json`."""
    return _command(function, {"as_json": _SHARED["as_json"]}, lambda _, arguments: function(**arguments))


def _command(
    function: Callable[..., Shown],
    shared: dict[str, tuple[Any, Any]],
    run: Callable[[dict[str, Any], dict[str, Any]], Shown],
    *,
    skipped: int = 0,
) -> Callable[..., None]:
    @functools.wraps(function)
    def command(**given: Any) -> None:  # noqa: ANN401 - whatever the function's own parameters are
        options = {name: given.pop(name) for name in shared}
        as_json: bool = options["as_json"]
        try:
            shown = run(options, given)
        except CommandError as exc:
            show_error(exc, as_json=as_json)
            raise typer.Exit(ExitCode.FAILED) from exc
        show(shown, as_json=as_json)
        if shown.code is not ExitCode.OK:
            raise typer.Exit(shown.code)

    # Typer reads the signature and the hints of what it is given: the function's own, then the shared ones.
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[skipped:]
    parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
    for name, (annotation, default) in shared.items():
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__  # set by wraps; inspect would look through it
    return command
