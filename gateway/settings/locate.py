"""Which file is used when none, or one, is named."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

PACKAGE: Final = "crossfade_config"
"""The `config` directory of the repository under the name by which it is installed."""
_DIRECTORY: Final = "config"


def locate_migration(chosen: Path | None, directory: Path | None = None) -> Path:
    """The migration file: the chosen one, else `config/migration.yaml` here, else the packaged copy.

    Args:
        chosen: What the operator named; taken as it is, whether it exists or not.
        directory: Where "here" is; the working directory when None.

    Raises:
        FileNotFoundError: There is none, and this installation has lost its copy.
    """
    if chosen is not None:
        return chosen
    here = (directory or Path()) / _DIRECTORY / "migration.yaml"
    return here if here.is_file() else packaged("migration.yaml")


def locate_gateway(chosen: Path | None, directory: Path | None = None) -> Path | None:
    """The gateway's own file: the chosen one, else `config/gateway.yaml` here, else None: the defaults."""
    if chosen is not None:
        return chosen
    here = (directory or Path()) / _DIRECTORY / "gateway.yaml"
    return here if here.is_file() else None


def packaged(name: str) -> Path:
    """A file that is installed with Crossfade.

    Raises:
        FileNotFoundError: The installation lacks it.
    """
    try:
        path = Path(str(files(PACKAGE).joinpath(name)))
    except ModuleNotFoundError:
        path = Path(PACKAGE, name)
    if not path.is_file():
        raise FileNotFoundError(f"the packaged {name} is missing; reinstall crossfade, or name a file with --migration")
    return path
