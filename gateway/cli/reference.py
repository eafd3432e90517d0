"""The reference of the command line, from the commands themselves.

`python -m gateway.cli.reference` writes it to standard output; `docs/cli.md` holds it, checked by a test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from gateway.cli.later import LATER
from gateway.cli.main import COMMANDS, PROGRAM, load

_HEAD: Final = """# The command line

Made from the commands by `python -m gateway.cli.reference > docs/cli.md`; a test checks it.

Commands that talk to the control API find it by `--control` or `CROSSFADE_CONTROL_URL`, else by `runtime.json` in the
data directory (`--data-dir`, `CROSSFADE_DATA_DIR`, `.crossfade`). Their token comes from a file (`--token-file`,
`CROSSFADE_TOKEN_FILE`), else from the one that `crossfade up` made; it never stands on a command line. The token of
this machine is sent to the control of this machine only.

With `--json` standard output is exactly one JSON document, also when a command fails; messages go to standard error.

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | refused, failed, or control cannot be reached |
| 2 | the command line is not right |
| 3 | not enough data to decide |

"""
_KILL: Final = """## Without control

When control does not answer, a kill needs only the gateways: write its scope (`all`, `group:NAME`, `operation:NAME`)
into the file `KILL` of their data directory, or set the key `cf:MIGRATION:kill:SCOPE` in Redis to a reason. Removing
either does not re-arm; `crossfade rearm SCOPE --reason …` does, once they are gone. A key whose scope does not exist
kills nothing, and `crossfade status` says so; a file that names no scope that exists kills all.
"""


def render() -> str:
    """The reference, Markdown."""
    parts = [_HEAD, _KILL, "\n## Commands\n"]
    for name in COMMANDS:
        parts.extend(_describe(f"{PROGRAM} {name}", load(name)))
    parts.append("\n## Not yet available\n\nThese say so and end with exit code 1.\n\n")
    parts.extend(f"- `{PROGRAM} {name}`: {about.partition(': ')[2]}\n" for name, about in LATER.items())
    return "".join(parts)


def _describe(title: str, command: Any) -> Iterator[str]:  # noqa: ANN401 - typer keeps the type to itself
    subcommands = getattr(command, "commands", None)
    if subcommands:
        for name, subcommand in subcommands.items():
            yield from _describe(f"{title} {name}", subcommand)
        return
    arguments = [param for param in command.params if param.param_type_name == "argument" and not param.hidden]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    shown = " ".join([title, *map(_placeholder, arguments)]).replace("\\|", "|")
    yield f"\n### `{shown}`\n\n{_one_line(command.help)}\n"
    if arguments or options:
        yield "\n| | |\n| --- | --- |\n"
    for param in arguments:
        yield _row(_placeholder(param), param)
    for param in options:
        yield _row(", ".join(param.opts) + _value(param), param)


def _row(name: str, param: Any) -> str:  # noqa: ANN401 - typer keeps the type to itself
    required = " Required." if param.required and param.param_type_name == "option" else ""
    return f"| `{name}` | {_one_line(param.help)}{required} |\n"


def _placeholder(param: Any) -> str:  # noqa: ANN401 - typer keeps the type to itself
    name = (param.metavar or param.name.upper()).replace("|", "\\|")
    return name if param.required or name.startswith("[") else f"[{name}]"


def _value(param: Any) -> str:  # noqa: ANN401 - typer keeps the type to itself
    if param.is_flag:
        return ""
    kind = param.bare_type
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " " + "\\|".join(str(member.value) for member in kind)
    return f" {param.metavar or param.name.upper()}"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
