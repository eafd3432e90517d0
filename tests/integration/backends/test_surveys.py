"""Surveys leave nothing in the repository that they look at, and meet nobody who works there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.common.local_provider import LocalProvider
from backends.common.local_sandbox import LocalSandbox
from backends.common.survey import KEPT_KIB, survey
from tests.support.services import bare_repository, sandbox_home
from tests.support.simple_service import WORKSPACE, Simple, simple_service
from tests.support.waiting import until

FILES = 1500


@dataclass
class Bench:
    """A workspace with a clone.

    Attributes:
        simple: The service.
        sandbox: Of the workspace.
        tree: Its work tree.
    """

    simple: Simple
    sandbox: LocalSandbox
    tree: Path

    @property
    def aside(self) -> Path:
        """Where surveys write."""
        return self.tree.parent / "home" / ".crossfade-survey"

    def fill(self) -> None:
        """Makes a survey last for some time."""
        for number in range(FILES):
            path = self.tree / f"untracked-{number}"
            path.write_text(f"{number}\n" * 50)
            if self.sandbox.uid is not None:
                os.chown(path, self.sandbox.uid, self.sandbox.uid)

    def in_git(self) -> set[str]:
        return {str(path.relative_to(self.tree)) for path in (self.tree / ".git").rglob("*")}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bare = bare_repository(tmp_path)
    with sandbox_home() as home:
        provider = LocalProvider(home / "service")
        async with simple_service(provider, tmp_path / "notes", tmp_path) as simple:
            await simple.ok("git.clone", url=str(bare))
            sandbox = await provider.find(WORKSPACE.digest)
            assert sandbox is not None
            [tree] = (home / "service").glob("*/box/clone-*")
            await simple.service.workspaces.aclose()
            yield Bench(simple, sandbox, tree)


async def test_a_survey_and_an_export_leave_nothing_behind(bench: Bench) -> None:
    before = bench.in_git()
    for content in ("1" * 100_000, "2" * 100_000):
        path = bench.tree / "untracked"
        path.write_text(content)
        if bench.sandbox.uid is not None:
            os.chown(path, bench.sandbox.uid, bench.sandbox.uid)
        await survey(bench.sandbox)
        await bench.simple.service.workspaces.export(WORKSPACE, None)
    assert bench.in_git() == before


async def test_what_surveys_keep_for_the_next_is_bounded(bench: Bench) -> None:
    await survey(bench.sandbox)
    # As the blobs of many versions of large files.
    bulk = bench.aside / "objects" / "bulk"
    with bulk.open("wb") as file:
        file.write(b"x" * (KEPT_KIB << 10))
    expected = await survey(bench.sandbox)
    assert not bulk.exists()
    assert await survey(bench.sandbox) == expected


async def test_a_survey_that_is_cancelled_leaves_what_the_next_one_removes(bench: Bench) -> None:
    bench.fill()
    before = bench.in_git()
    for _ in range(2):
        surveying = asyncio.create_task(survey(bench.sandbox))
        await until((bench.aside / "index.lock").exists, "it looks at files")
        surveying.cancel()
        await asyncio.gather(surveying, return_exceptions=True)
    assert bench.in_git() == before
    await survey(bench.sandbox)
    assert not (bench.aside / "index.lock").exists()


async def test_a_writer_that_tidies_up_does_not_disturb_a_survey(bench: Bench) -> None:
    bench.fill()
    expected = await survey(bench.sandbox)
    surveying = asyncio.create_task(survey(bench.sandbox))
    await until((bench.aside / "index.lock").exists, "it writes its index")
    await bench.sandbox.remove_stale_locks()
    assert await surveying == expected


async def test_surveys_at_once_take_turns(bench: Bench) -> None:
    states = await asyncio.gather(*(survey(bench.sandbox) for _ in range(4)))
    assert len(set(states)) == 1
