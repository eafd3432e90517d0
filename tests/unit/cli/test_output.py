"""Where standard output takes nothing, what a command does is done all the same."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.up import crossfade


@pytest.mark.parametrize("where", [">&-", "> /dev/full"])
@pytest.mark.parametrize("options", ["", " --json"])
def test_a_command_says_so_and_succeeds(where: str, options: str) -> None:
    program = crossfade()[0]
    done = subprocess.run(
        ["sh", "-c", f"{program} check-config config/migration.yaml{options} {where}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
