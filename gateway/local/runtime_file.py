"""`<data-dir>/runtime.json`: where everything is, for the command line and for scripts. Holds no secret."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.local.data_dir import DataDir, is_in_use
from gateway.local.errors import StartError

NAME: Final = "runtime.json"
VERSION: Final = 1


def write_runtime(data_dir: DataDir, facts: Mapping[str, Any], pids: Mapping[str, int]) -> None:
    """Writes the file, 0600, in one step.

    Args:
        data_dir: Ours.
        facts: What contract.md names, but `version` and `pids`.
        pids: Of the parts, by name.
    """
    content = {"version": VERSION, **facts, "pids": {"supervisor": os.getpid(), **pids}}
    data_dir.write(NAME, json.dumps(content, indent=1) + "\n")


def read_runtime(data_dir: Path) -> dict[str, Any]:
    """Reads the file of a supervisor that runs; one that a killed supervisor left says nothing.

    Raises:
        StartError: None runs there, or it is still starting.
    """
    if not is_in_use(data_dir):
        raise StartError(f"crossfade does not run on {data_dir}; start it: crossfade up --data-dir {data_dir}")
    path = data_dir / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise StartError(f"crossfade on {data_dir} is starting or stopping; try again") from exc
    except (OSError, ValueError) as exc:
        raise StartError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise StartError(f"{path} was written by another version of crossfade")
    return content
