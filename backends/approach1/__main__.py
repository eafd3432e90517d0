"""`python -m backends.approach1 --port P | --fd N --data-dir DIR`."""

from __future__ import annotations

import os
import sys

from backends.approach1.deployment import deployment_of
from backends.approach1.expiry import idle_from_env
from backends.approach1.notes import FileNotes
from backends.approach1.service import SimpleGitService
from backends.common.serving import Surroundings, serve


def build(around: Surroundings) -> SimpleGitService:
    """Puts the service together."""
    around.provider.belong_to(deployment_of(around.data_dir))
    notes = FileNotes(around.data_dir / "workspaces")
    return SimpleGitService(around.provider, notes, around.rules, idle_from_env(os.environ))


if __name__ == "__main__":
    sys.exit(serve("approach1", build))
