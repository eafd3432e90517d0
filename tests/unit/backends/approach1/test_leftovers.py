"""Sandboxes that belong to no workspace go, records without a sandbox go, and nothing else does."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends.approach1.leftovers import ABANDONED_S, Leftovers
from backends.approach1.notes import FileNotes
from backends.common.local_provider import LocalProvider
from backends.common.locks import LocalLocks
from backends.common.workspace import WorkspaceId
from tests.support.waiting import until

CLONED, EMPTY = WorkspaceId("agent", "cloned"), WorkspaceId("agent", "empty")
URL = "https://example.org/a.git"


@dataclass
class Bench:
    """Leftovers, with a clock that is turned by hand."""

    root: Path
    notes: FileNotes
    provider: LocalProvider
    locks: LocalLocks = field(default_factory=lambda: LocalLocks(wait_s=0.01))
    at: float = 0.0

    def __post_init__(self) -> None:
        self.leftovers = Leftovers(self.provider, self.locks, self.notes, lambda: self.at)

    async def clone(self, workspace: WorkspaceId) -> None:
        """As a first clone leaves a workspace."""
        sandbox = await self.provider.create(workspace.digest)
        git = self.root / workspace.digest / "box" / "clone-1" / ".git"
        git.mkdir(parents=True)
        (git / "config").touch()
        await sandbox.settle_clone("clone-1", URL)

    async def sweep_after(self, seconds: float) -> list[str]:
        self.at += seconds
        await self.leftovers.sweep()
        return await self.provider.names()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    notes = FileNotes(tmp_path / "notes")
    await notes.start()
    bench = Bench(tmp_path / "sandboxes", notes, LocalProvider(tmp_path / "sandboxes"))
    yield bench
    await bench.leftovers.aclose()
    notes.close()


async def test_what_a_first_clone_left_goes_once_nobody_can_want_it(bench: Bench) -> None:
    await bench.clone(CLONED)
    await bench.notes.changed(CLONED, URL)
    await bench.provider.create(EMPTY.digest)
    both = sorted([CLONED.digest, EMPTY.digest])
    assert await bench.sweep_after(0) == both
    assert await bench.sweep_after(ABANDONED_S - 1) == both
    async with bench.locks.hold(EMPTY):
        assert await bench.sweep_after(1) == both
    assert await bench.sweep_after(0) == [CLONED.digest]


async def test_a_repository_that_is_in_no_record_stays(bench: Bench) -> None:
    await bench.clone(CLONED)
    await bench.sweep_after(0)
    assert await bench.sweep_after(ABANDONED_S) == [CLONED.digest]


async def test_a_sandbox_that_is_made_anew_is_not_as_old_as_the_one_before(bench: Bench) -> None:
    await bench.provider.create(EMPTY.digest)
    await bench.sweep_after(0)
    await bench.provider.destroy(EMPTY.digest)
    await bench.sweep_after(ABANDONED_S - 1)
    await bench.provider.create(EMPTY.digest)
    assert await bench.sweep_after(1) == [EMPTY.digest]


async def test_a_record_without_a_sandbox_goes(bench: Bench) -> None:
    await bench.clone(CLONED)
    for workspace in (CLONED, EMPTY):
        await bench.notes.changed(workspace, URL)
    await bench.leftovers.sweep()
    assert [record.workspace for record in bench.notes.records()] == [CLONED]


async def test_a_sandbox_that_is_not_found_takes_its_record_along_unless_it_is_made_meanwhile(bench: Bench) -> None:
    for workspace in (CLONED, EMPTY):
        await bench.notes.changed(workspace, URL)
    async with bench.locks.hold(CLONED):
        bench.leftovers.lost(CLONED)
        bench.leftovers.lost(EMPTY)
        await bench.clone(CLONED)
    await until(lambda: not bench.notes.holds_something(EMPTY), "it is forgotten")
    await until(lambda: not bench.leftovers.is_busy, "it has looked at both")
    assert bench.notes.holds_something(CLONED)


async def test_what_is_left_of_a_sandbox_goes_with_its_record(bench: Bench) -> None:
    for workspace in (CLONED, EMPTY):
        await bench.clone(workspace)
        await bench.notes.changed(workspace, URL)
        shutil.rmtree(bench.root / workspace.digest / "box")
    bench.leftovers.lost(EMPTY)
    await until(lambda: not bench.leftovers.is_busy, "it has looked")
    assert [path.name for path in bench.root.iterdir()] == [CLONED.digest]
    await bench.leftovers.sweep()
    assert list(bench.root.iterdir()) == []
