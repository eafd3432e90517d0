"""Durations as people write them: `90s`, `15m`, `12h`, `30d`."""

from __future__ import annotations

import re
from typing import Final

import typer

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str, hint: str) -> int:
    """The duration in seconds, at least one.

    Raises:
        typer.BadParameter: It is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no duration; write it like 90s, 15m, 12h or 30d", param_hint=hint)
    return int(found[1]) * _SECONDS[found[2]]
