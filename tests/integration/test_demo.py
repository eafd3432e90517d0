"""The demo passes its own checks, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIMIT_S = 500


def test_agents_work_through_shares_and_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gateway.cli.main", "demo", "--agents", "3", "--tasks", "2", "--json"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    # A dropped user must be able to reach what the demo makes below.
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    outcome = json.loads(done.stdout)
    assert outcome["passed"]
    assert all(check["held"] for check in outcome["checks"])
    assert len(outcome["checks"]) == 11
    assert list(tmp_path.iterdir()) == []
