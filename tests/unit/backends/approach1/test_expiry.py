"""Idle workspaces of approach 1 go, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends.approach1.expiry import SHORTEST_S, IdleExpiry, idle_from_env
from backends.approach1.notes import FileNotes
from backends.common.calls import CallId
from backends.common.local_provider import LocalProvider
from backends.common.locks import LocalLocks
from backends.common.workspace import WorkspaceId

IDLE_S = 1000.0
BUSY, QUIET = WorkspaceId("agent", "busy"), WorkspaceId("agent", "quiet")


@dataclass
class Bench:
    """An expiry with a clock that is turned by hand."""

    notes: FileNotes
    provider: LocalProvider
    locks: LocalLocks = field(default_factory=lambda: LocalLocks(wait_s=0.01))
    at: float = 0.0

    def __post_init__(self) -> None:
        self.expiry = IdleExpiry(self.provider, self.locks, self.notes, IDLE_S, lambda: self.at)

    async def there(self) -> set[WorkspaceId]:
        found = {record.workspace for record in self.notes.records()}
        assert {workspace.digest for workspace in found} == set(await self.provider.names())
        return found


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    notes = FileNotes(tmp_path / "notes")
    await notes.start()
    provider = LocalProvider(tmp_path / "sandboxes")
    for workspace in (BUSY, QUIET):
        await provider.create(workspace.digest)
        await notes.changed(workspace, "https://example.org/a.git")
    return Bench(notes, provider)


async def test_what_is_used_stays_and_what_is_not_goes(bench: Bench) -> None:
    bench.at = IDLE_S - 1
    bench.expiry.used(BUSY)
    await bench.expiry.sweep()
    assert await bench.there() == {BUSY, QUIET}
    bench.at = IDLE_S
    await bench.expiry.sweep()
    assert await bench.there() == {BUSY}
    bench.at = 2 * IDLE_S - 1
    await bench.expiry.sweep()
    assert await bench.there() == set()


async def test_what_somebody_holds_stays(bench: Bench) -> None:
    bench.at = IDLE_S
    async with bench.locks.hold(QUIET):
        await bench.expiry.sweep()
        assert await bench.there() == {QUIET}
    await bench.expiry.sweep()
    assert await bench.there() == set()


async def test_keyed_calls_outlive_the_workspace(bench: Bench, tmp_path: Path) -> None:
    keyed = CallId(QUIET, "git.push", "key", "digest")
    await bench.notes.begin(keyed)
    bench.at = IDLE_S
    await bench.expiry.sweep()
    bench.notes.close()
    again = FileNotes(tmp_path / "notes")
    await again.start()
    assert await again.find(keyed) is not None
    assert await again.get(QUIET) is None


@pytest.mark.parametrize("text", ["x", "-1", "0", "nan", "inf", str(SHORTEST_S - 1)])
def test_a_senseless_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CROSSFADE_IDLE_EXPIRY_S"):
        idle_from_env({"CROSSFADE_IDLE_EXPIRY_S": text})


def test_it_is_off_unless_set() -> None:
    assert idle_from_env({}) is None
    assert idle_from_env({"CROSSFADE_IDLE_EXPIRY_S": "3600"}) == 3600.0
