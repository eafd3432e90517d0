"""`python -m backends.approach1 --port P | --fd N --data-dir DIR`."""

from __future__ import annotations

import sys

from backends.approach1.notes import FileNotes
from backends.approach1.service import SimpleGitService
from backends.common.serving import Surroundings, serve


def build(around: Surroundings) -> SimpleGitService:
    """Puts the service together."""
    return SimpleGitService(around.provider, FileNotes(around.data_dir / "workspaces"), around.rules)


if __name__ == "__main__":
    sys.exit(serve("approach1", build))
