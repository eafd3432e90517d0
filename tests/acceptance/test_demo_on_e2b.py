"""The demo with sandboxes of an E2B-compatible server: the whole of it, by the official SDK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_e2b import running_fake_e2b

LIMIT_S = 500

pytestmark = pytest.mark.skipif(
    os.environ.get("CROSSFADE_TEST_MATRIX") != "full", reason="takes a minute; part of `make torture`"
)


def test_agents_work_in_sandboxes_of_the_cloud(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gateway.cli.main", "demo", "--agents", "2", "--tasks", "1", "--json"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with running_fake_e2b(tmp_path / "e2b") as cloud:
        # Faster than an account may: the server here has no limit.
        env = {**os.environ, **cloud.env, "CROSSFADE_POOL_CREATE_PER_S": "20", "TMPDIR": str(scratch)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout
        outcome = json.loads(done.stdout)
        assert all(check["held"] for check in outcome["checks"])
        marks = {sandbox["metadata"]["crossfade_service"].partition("-")[2] for sandbox in cloud.sandboxes()}
    # Both services had their sandboxes there, and nowhere else.
    assert marks == {"approach1", "approach2"}
    assert list(scratch.iterdir()) == []
