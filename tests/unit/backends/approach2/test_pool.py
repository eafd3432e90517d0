"""The pool over the real table (SQLite) and the real local provider, without any command."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.approach2.database import Database
from backends.approach2.models import SandboxState
from backends.approach2.pool import PoolSize, SandboxPoolManager
from backends.approach2.table import SandboxTable
from backends.common.errors import Code, ServiceError
from backends.common.local_provider import LocalProvider
from backends.common.workspace import WorkspaceId
from tests.support.waiting import until, until_async


def workspace(number: int) -> WorkspaceId:
    return WorkspaceId("agent", f"task-{number}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sandboxes"


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[SandboxTable]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'table.db'}")
    await database.start()
    yield SandboxTable(database)
    await database.aclose()


@pytest.fixture
async def pool(root: Path, table: SandboxTable) -> AsyncIterator[SandboxPoolManager]:
    pool = SandboxPoolManager(LocalProvider(root), table, PoolSize(3, 6))
    await pool.start()
    await pool.wait_warm()
    yield pool
    await pool.aclose()


async def test_three_wait_and_a_checkout_is_made_up_for(pool: SandboxPoolManager, table: SandboxTable) -> None:
    assert pool.warm == 3
    warm = await table.named(SandboxState.WARM)
    sandbox = await pool.checkout(workspace(1))
    assert sandbox.name == warm[0]
    assert await table.find(workspace(1)) == sandbox.name
    await until(lambda: pool.warm == 3, "the pool is warm again")


async def test_workspaces_at_once_get_sandboxes_of_their_own(pool: SandboxPoolManager) -> None:
    found = await asyncio.gather(*(pool.checkout(workspace(number)) for number in range(3)))
    assert len({sandbox.name for sandbox in found}) == 3


async def test_a_workspace_that_has_a_sandbox_keeps_it(pool: SandboxPoolManager) -> None:
    first = await pool.checkout(workspace(1))
    assert (await pool.checkout(workspace(1))).name == first.name


async def test_a_sick_sandbox_is_never_given_out(pool: SandboxPoolManager, table: SandboxTable, root: Path) -> None:
    sick = (await table.named(SandboxState.WARM))[0]
    shutil.rmtree(root / sick / "box")
    assert (await pool.checkout(workspace(1))).name != sick
    assert sick not in await table.names()
    assert not (root / sick).exists()


async def test_no_more_than_the_maximum_are_made(pool: SandboxPoolManager) -> None:
    for number in range(6):
        await pool.checkout(workspace(number))
    with pytest.raises(ServiceError) as caught:
        await pool.checkout(workspace(7))
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE


async def test_a_restart_takes_over_what_is_warm_and_removes_what_nobody_knows(
    root: Path, table: SandboxTable, tmp_path: Path
) -> None:
    first = SandboxPoolManager(LocalProvider(root), table, PoolSize(3, 6))
    await first.start()
    await first.wait_warm()
    mine = await first.checkout(workspace(1))
    await first.aclose()
    await LocalProvider(root).create("unknown0")
    warm = await table.named(SandboxState.WARM)
    second = SandboxPoolManager(LocalProvider(root), table, PoolSize(3, 6))
    await second.start()
    await second.wait_warm()
    assert set(warm) <= set(await table.named(SandboxState.WARM))
    assert await table.find(workspace(1)) == mine.name
    assert not (root / "unknown0").exists()
    await second.aclose()


async def test_what_another_instance_gave_away_is_left_alone(
    pool: SandboxPoolManager, root: Path, table: SandboxTable
) -> None:
    # Another instance has taken over the same warm ones; to it they seem unfit as soon as they are used.
    other = SandboxPoolManager(LocalProvider(root), table, PoolSize(3, 20))
    await other.start()
    await other.wait_warm()
    given = [await pool.checkout(workspace(number)) for number in range(3)]
    for sandbox in given:
        shutil.rmtree(root / sandbox.name / "box")
    mine = await other.checkout(workspace(7))
    assert mine.name not in {sandbox.name for sandbox in given}
    assert [await table.find(workspace(number)) for number in range(3)] == [sandbox.name for sandbox in given]
    assert all((root / sandbox.name).exists() for sandbox in given)
    await other.aclose()


async def test_a_sweep_forgets_workspaces_whose_sandbox_is_gone(
    pool: SandboxPoolManager, root: Path, table: SandboxTable
) -> None:
    gone, kept = [await pool.checkout(workspace(number)) for number in range(2)]
    shutil.rmtree(root / gone.name)
    await pool.sweep()
    assert await table.find(workspace(0)) is None
    assert await table.find(workspace(1)) == kept.name


def test_sizes_come_from_the_environment_and_at_least_three_are_warm() -> None:
    assert PoolSize.from_env({}) == PoolSize(3, 10_000)
    assert PoolSize.from_env({"CROSSFADE_POOL_WARM": "5", "CROSSFADE_POOL_TOTAL": "9"}) == PoolSize(5, 9)
    for warm, total in (("2", "9"), ("5", "4"), ("x", "9")):
        with pytest.raises(ValueError, match=r"CROSSFADE_POOL|invalid"):
            PoolSize.from_env({"CROSSFADE_POOL_WARM": warm, "CROSSFADE_POOL_TOTAL": total})


async def test_a_checkout_waits_for_one_that_is_being_made(root: Path, table: SandboxTable) -> None:
    """Whoever finds none warm and whoever refills must not count each other's sandboxes as more than there may be."""
    for number in range(20):
        pool = SandboxPoolManager(LocalProvider(root), table, PoolSize(3, 3 * number + 6))
        await pool.start()
        found = await asyncio.gather(*(pool.checkout(workspace(3 * number + task)) for task in range(3)))
        assert len({sandbox.name for sandbox in found}) == 3
        await pool.aclose()


async def test_a_table_that_cannot_be_written_leaves_no_sandbox_behind(
    pool: SandboxPoolManager, root: Path, tmp_path: Path
) -> None:
    before = sandboxes(root)
    with contextlib.closing(sqlite3.connect(tmp_path / "table.db")) as connection:
        connection.execute("DROP TABLE git_sandboxes")
    for number in range(5):
        with pytest.raises(ServiceError) as caught:
            await pool.checkout(workspace(number))
        assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert sandboxes(root) <= before


async def test_a_checkout_that_is_cancelled_loses_no_sandbox(
    pool: SandboxPoolManager, table: SandboxTable, root: Path
) -> None:
    for pauses in range(30):
        checking_out = asyncio.create_task(pool.checkout(workspace(0)))
        for _ in range(pauses):
            await asyncio.sleep(0)
        checking_out.cancel()
        await asyncio.gather(checking_out, return_exceptions=True)
        await until_async(lambda: every_sandbox_is_known(pool, table, root), "each is warm or taken")
        taken = await table.find(workspace(0))
        if taken is not None:
            await pool.release(taken)


async def test_a_start_keeps_what_somebody_works_in_and_no_row_names(root: Path, table: SandboxTable) -> None:
    """As after a start with another database: the repositories are still there when the right one is back."""
    made = await LocalProvider(root).create("unknown0")
    config = root / "unknown0" / "box" / "clone-1" / ".git" / "config"
    config.parent.mkdir(parents=True)
    config.touch()
    await made.settle_clone("clone-1", "https://git.example/a.git")
    pool = SandboxPoolManager(LocalProvider(root), table, PoolSize(3, 6))
    await pool.start()
    await pool.wait_warm()
    await pool.aclose()
    assert config.exists()


async def every_sandbox_is_known(pool: SandboxPoolManager, table: SandboxTable, root: Path) -> bool:
    warm = await table.named(SandboxState.WARM)
    taken = await table.find(workspace(0))
    return pool.warm == len(warm) >= 3 and sandboxes(root) == {*warm, taken} - {None}


def sandboxes(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}
