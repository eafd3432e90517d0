"""`crossfade version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from gateway.cli.command import shows
from gateway.cli.shown import Shown


@shows
def version_command() -> Shown:
    """Show the version."""
    try:
        ours = version("crossfade")
    except PackageNotFoundError:
        ours = "unknown"
    document = {"version": ours, "python": platform.python_version()}
    return Shown(document, lambda out: out.print(f"crossfade {ours} on Python {document['python']}"))
