"""One real `crossfade up` for the tests of a module; each brings its own groups back where it found them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.control import migration
from tests.support.up import Up, running_up

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


Crossfade = Callable[..., Done]


def crossfade(*arguments: str, data_dir: Path | None = None, given: str = "", **env: str) -> Done:
    """Runs a command in a bare environment."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFADE_")}
    where = {"CROSSFADE_DATA_DIR": str(data_dir)} if data_dir else {}
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", *arguments],
        input=given,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**bare, **where, **env},
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    directory = tmp_path_factory.mktemp("up")
    async with running_up(directory / "data", migration(), "--workers", "2") as up:
        yield up


@pytest.fixture
def run(up: Up) -> Crossfade:
    def run(*arguments: str, **more: Any) -> Done:
        return crossfade(*arguments, data_dir=up.data_dir, **more)

    return run
