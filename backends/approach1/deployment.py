"""The random name of this deployment, kept in its data directory: the mark of its sandboxes in a shared account."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

_FILE: Final = "deployment"


def deployment_of(data_dir: Path) -> str:
    """Reads the name; makes it on the first run.

    Raises:
        OSError: The file can be neither read nor written.
    """
    path = data_dir / _FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    name = secrets.token_hex(8)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{name}\n")
        file.flush()
        # A name that is lost leaves sandboxes that nobody finds again.
        os.fsync(file.fileno())
    temporary.replace(path)
    return name
