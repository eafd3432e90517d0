"""The pool over the real table (SQLite) and the real local provider, without any command."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from backends.approach2.database import Database, utc
from backends.approach2.models import GitSandbox, SandboxState
from backends.approach2.pool import SandboxPoolManager
from backends.approach2.pool_settings import PoolSettings
from backends.approach2.table import SandboxTable
from backends.common.calls import now
from backends.common.errors import Code, ServiceError
from backends.common.local_provider import LocalProvider
from backends.common.local_sandbox import LocalSandbox
from backends.common.locks import LocalLocks
from backends.common.sandbox import Sandbox
from backends.common.workspace import WorkspaceId
from tests.support.waiting import until, until_async


def workspace(number: int) -> WorkspaceId:
    return WorkspaceId("agent", f"task-{number}")


def pool_of(root: Path, table: SandboxTable, warm: int, total: int) -> SandboxPoolManager:
    return SandboxPoolManager(LocalProvider(root), table, LocalLocks(), PoolSettings(warm, total))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sandboxes"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'table.db'}")
    await database.start()
    yield database
    await database.aclose()


@pytest.fixture
def table(database: Database) -> SandboxTable:
    return SandboxTable(database)


@pytest.fixture
async def pool(root: Path, table: SandboxTable) -> AsyncIterator[SandboxPoolManager]:
    pool = pool_of(root, table, 3, 6)
    await pool.start()
    await pool.wait_warm()
    yield pool
    await pool.aclose()


async def test_three_wait_and_a_checkout_is_made_up_for(pool: SandboxPoolManager, table: SandboxTable) -> None:
    assert pool.warm == 3
    warm = await table.named(SandboxState.WARM)
    sandbox = await pool.checkout(workspace(1))
    assert sandbox.name in warm
    assert await table.find(workspace(1)) == sandbox.name
    await until(lambda: pool.warm == 3, "the pool is warm again")


async def test_workspaces_at_once_get_sandboxes_of_their_own(pool: SandboxPoolManager) -> None:
    found = await asyncio.gather(*(pool.checkout(workspace(number)) for number in range(3)))
    assert len({sandbox.name for sandbox in found}) == 3


async def test_a_workspace_that_has_a_sandbox_keeps_it(pool: SandboxPoolManager) -> None:
    first = await pool.checkout(workspace(1))
    assert (await pool.checkout(workspace(1))).name == first.name


async def test_a_sick_sandbox_is_never_given_out(pool: SandboxPoolManager, table: SandboxTable, root: Path) -> None:
    sick = (await table.named(SandboxState.WARM))[:2]
    for name in sick:
        shutil.rmtree(root / name / "box")
    assert (await pool.checkout(workspace(1))).name not in sick
    await pool.look_after()
    assert not set(sick) & set(await table.names())
    assert not set(sick) & sandboxes(root)
    await until(lambda: pool.warm == 3, "they are made up for")


async def test_no_more_than_the_maximum_are_made(pool: SandboxPoolManager) -> None:
    for number in range(6):
        await pool.checkout(workspace(number))
    with pytest.raises(ServiceError) as caught:
        await pool.checkout(workspace(7))
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE


class Slow(LocalProvider):
    """Makes what is to be warm only when it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may = asyncio.Event()
        self.asked = 0

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> LocalSandbox:
        if not labels:
            self.asked += 1
            await self.may.wait()
        return await super().create(name, labels)


async def test_a_checkout_gets_the_last_that_there_may_be_while_it_is_being_made_for_the_pool(
    root: Path, table: SandboxTable
) -> None:
    provider = Slow(root)
    pool = SandboxPoolManager(provider, table, LocalLocks(), PoolSettings(3, 3))
    await pool.start()
    await until(lambda: provider.asked == 3, "all that there may be are being made")
    waiting = [asyncio.create_task(pool.checkout(workspace(number))) for number in range(4)]
    provider.may.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    refused = [left for left in found if isinstance(left, BaseException)]
    assert len({sandbox.name for sandbox in found if not isinstance(sandbox, BaseException)}) == 3
    assert list(map(str, refused)) == ["there are as many sandboxes as there may be"]
    await pool.aclose()


async def test_a_restart_takes_over_what_is_warm_and_removes_what_nobody_knows(
    root: Path, table: SandboxTable, tmp_path: Path
) -> None:
    first = pool_of(root, table, 3, 6)
    await first.start()
    await first.wait_warm()
    mine = await first.checkout(workspace(1))
    await first.aclose()
    await LocalProvider(root).create("unknown0")
    warm = await table.named(SandboxState.WARM)
    second = pool_of(root, table, 3, 6)
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
    other = pool_of(root, table, 3, 20)
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


async def test_a_sweep_waits_for_nobody_who_holds_a_workspace(root: Path, table: SandboxTable) -> None:
    locks = LocalLocks(wait_s=1e6)
    pool = SandboxPoolManager(LocalProvider(root), table, locks, PoolSettings(3, 6))
    await pool.start()
    held, free = [await pool.checkout(workspace(number)) for number in range(2)]
    shutil.rmtree(root / held.name / "box")
    shutil.rmtree(root / free.name / "box")
    async with locks.hold(workspace(0)):
        await pool.sweep()
        assert await table.find(workspace(0)) == held.name
    assert await table.find(workspace(1)) is None
    assert not (root / free.name).exists()
    await pool.sweep()
    assert await table.find(workspace(0)) is None
    await pool.aclose()


async def test_what_a_sweep_could_not_look_at_is_looked_at_again_soon(root: Path, table: SandboxTable) -> None:
    locks = LocalLocks()
    pool = SandboxPoolManager(LocalProvider(root), table, locks, PoolSettings(3, 6, again_s=0.01))
    async with locks.hold(workspace(0)):
        gone = await pool.checkout(workspace(0))
        shutil.rmtree(root / gone.name / "box")
        await pool.start()
        assert await table.find(workspace(0)) == gone.name

    async def is_forgotten() -> bool:
        return await table.find(workspace(0)) is None

    await until_async(is_forgotten, "the row goes")
    await pool.aclose()


async def test_a_full_pool_has_room_where_sandboxes_have_died(
    pool: SandboxPoolManager, table: SandboxTable, root: Path
) -> None:
    given = [await pool.checkout(workspace(number)) for number in range(6)]
    for sandbox in given[:3]:
        shutil.rmtree(root / sandbox.name / "box")
    found = await asyncio.gather(*(pool.checkout(workspace(number)) for number in range(6, 9)))
    assert sandboxes(root) == {sandbox.name for sandbox in [*given[3:], *found]}
    assert [await table.find(workspace(number)) for number in range(3)] == [None] * 3


async def test_a_pool_with_all_in_use_is_as_warm_as_it_may_be(root: Path, table: SandboxTable) -> None:
    first = pool_of(root, table, 3, 6)
    await first.start()
    await first.wait_warm()
    for number in range(5):
        await first.checkout(workspace(number))
    await first.aclose()
    again = pool_of(root, table, 3, 6)
    await again.start()
    await again.wait_warm()
    assert again.warm == 1
    assert again.why_not_ready() is None
    await again.aclose()


async def test_what_a_dead_instance_left_warm_is_given_away_by_the_others(root: Path, table: SandboxTable) -> None:
    living = pool_of(root, table, 3, 9)
    await living.start()
    await living.wait_warm()
    dying = pool_of(root, table, 6, 9)
    await dying.start()
    await dying.wait_warm()
    await dying.aclose()
    left = set(await table.named(SandboxState.WARM))
    assert len(left) == 6
    given = await asyncio.gather(*(living.checkout(workspace(number)) for number in range(6)))
    # Those first of all that the other one made: this one may have made some more by now.
    assert len({sandbox.name for sandbox in given} & left) >= 5
    await living.aclose()


async def test_what_others_left_warm_is_given_away_without_a_turn_to_make_one(root: Path, table: SandboxTable) -> None:
    """At an hour for each creation, a checkout that waited for its turn would never end."""
    living = SandboxPoolManager(LocalProvider(root), table, LocalLocks(), PoolSettings(3, 20, 1 / 3600))
    first = pool_of(root, table, 3, 20)
    await first.start()
    await first.wait_warm()
    await first.aclose()
    await living.start()
    second = pool_of(root, table, 6, 20)
    await second.start()
    await second.wait_warm()
    await second.aclose()
    async with asyncio.timeout(20):
        given = [await living.checkout(workspace(number)) for number in range(6)]
    assert len({sandbox.name for sandbox in given}) == 6
    await living.aclose()


async def test_a_pool_is_drained_where_that_is_wanted(root: Path, table: SandboxTable) -> None:
    pool = SandboxPoolManager(LocalProvider(root), table, LocalLocks(), PoolSettings(is_drained=True))
    await pool.start()
    await pool.wait_warm()
    mine = await pool.checkout(workspace(1))
    await pool.aclose()
    assert sandboxes(root) == {mine.name}
    assert await table.names() == [mine.name]


class Unlucky(LocalProvider):
    """Fails at first, of something that nobody thought of."""

    def __init__(self, root: Path, failures: int) -> None:
        super().__init__(root)
        self.failures = failures

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> LocalSandbox:
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("of all things")
        return await super().create(name, labels)


async def test_whatever_a_creation_fails_of_the_pool_is_refilled(root: Path, table: SandboxTable) -> None:
    pool = SandboxPoolManager(Unlucky(root, 2), table, LocalLocks(), PoolSettings())
    await pool.start()
    assert pool.why_not_ready() == "the pool is not warm yet"
    await until(lambda: pool.why_not_ready() == "RuntimeError", "the failure is told")
    await pool.wait_warm()
    assert pool.why_not_ready() is None
    assert pool.warm == 3
    await pool.aclose()


async def test_a_pool_that_is_empty_and_cannot_make_more_is_not_ready(root: Path, table: SandboxTable) -> None:
    provider = Unlucky(root, 0)
    pool = SandboxPoolManager(provider, table, LocalLocks(), PoolSettings())
    await pool.start()
    await pool.wait_warm()
    provider.failures = 1000
    for number in range(3):
        await pool.checkout(workspace(number))
    await until(lambda: pool.why_not_ready() == "RuntimeError", "it is told")
    provider.failures = 0
    await until(lambda: pool.why_not_ready() is None, "it is warm again")
    await pool.aclose()


class Leaving(SandboxTable):
    """The caller goes away while the row is written."""

    caller: asyncio.Task[Sandbox] | None = None

    async def assign(self, name: str, workspace: WorkspaceId) -> bool:
        if self.caller is not None:
            asyncio.get_running_loop().call_soon(self.caller.cancel)
        return await super().assign(name, workspace)


async def test_a_caller_that_leaves_while_it_is_given_a_sandbox_leaves_none_behind(
    root: Path, database: Database
) -> None:
    table = Leaving(database)
    pool = pool_of(root, table, 3, 30)
    await pool.start()
    await pool.wait_warm()
    for number in range(5):
        table.caller = asyncio.create_task(pool.checkout(workspace(number)))
        await asyncio.gather(table.caller, return_exceptions=True)
        assert table.caller.cancelled()
        table.caller = None
        assert await table.find(workspace(number)) is None
    await until_async(lambda: every_sandbox_is_known(pool, table, root), "each is warm")
    await pool.aclose()


async def test_a_sandbox_into_which_nobody_cloned_in_time_is_removed(
    root: Path, table: SandboxTable, database: Database
) -> None:
    """As after a first clone whose service was killed."""
    locks = LocalLocks()
    pool = SandboxPoolManager(LocalProvider(root), table, locks, PoolSettings())
    await pool.start()
    await pool.wait_warm()
    left, held, cloned, fresh = [await pool.checkout(workspace(number)) for number in range(4)]
    await put_clone(root, cloned)
    long_ago = utc(now() - timedelta(minutes=11))
    change = update(GitSandbox).where(GitSandbox.name != fresh.name).values(assigned_at=long_ago)
    await database.ask(lambda session: session.execute(change))
    async with locks.hold(workspace(1)):
        await pool.sweep()
    assert await table.find(workspace(0)) is None
    assert left.name not in sandboxes(root)
    found = [await table.find(workspace(number)) for number in range(1, 4)]
    assert found == [held.name, cloned.name, fresh.name]
    await pool.aclose()


def test_sizes_come_from_the_environment_and_at_least_three_are_warm() -> None:
    assert PoolSettings.from_env({}) == PoolSettings(3, 10_000)
    assert PoolSettings.from_env({"CROSSFADE_POOL_WARM": "5", "CROSSFADE_POOL_TOTAL": "9"}) == PoolSettings(5, 9)
    more = PoolSettings.from_env({"CROSSFADE_POOL_CREATE_PER_S": "0.5", "CROSSFADE_POOL_DRAIN": "true"})
    assert (more.creations_per_s, more.is_drained) == (0.5, True)
    for name, value in (("CREATE_PER_S", "0"), ("CREATE_PER_S", "nan"), ("CREATE_PER_S", "x"), ("DRAIN", "yes")):
        with pytest.raises(ValueError, match=rf"CROSSFADE_POOL_{name}={value}"):
            PoolSettings.from_env({f"CROSSFADE_POOL_{name}": value})
    for warm, total in (("2", "9"), ("5", "4"), ("x", "9")):
        with pytest.raises(ValueError, match=r"CROSSFADE_POOL|invalid"):
            PoolSettings.from_env({"CROSSFADE_POOL_WARM": warm, "CROSSFADE_POOL_TOTAL": total})


async def test_a_checkout_waits_for_one_that_is_being_made(root: Path, table: SandboxTable) -> None:
    """Whoever finds none warm and whoever refills must not count each other's sandboxes as more than there may be."""
    for number in range(20):
        pool = pool_of(root, table, 3, 3 * number + 6)
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
    config = await put_clone(root, await LocalProvider(root).create("unknown0"))
    pool = pool_of(root, table, 3, 6)
    await pool.start()
    await pool.wait_warm()
    await pool.aclose()
    assert config.exists()


async def test_a_damaged_sandbox_keeps_no_instance_from_starting(root: Path, table: SandboxTable) -> None:
    unknown = await LocalProvider(root).create("unknown0")
    (root / unknown.name / "meta" / "sandbox.json").write_text("nonsense")
    await LocalProvider(root).create("unknown1")
    pool = pool_of(root, table, 3, 6)
    await pool.start()
    await pool.wait_warm()
    assert (pool.warm, pool.why_not_ready()) == (3, None)
    assert (root / "unknown0").exists()
    assert not (root / "unknown1").exists()
    await pool.aclose()


async def put_clone(root: Path, sandbox: Sandbox) -> Path:
    config = root / sandbox.name / "box" / "clone-1" / ".git" / "config"
    config.parent.mkdir(parents=True)
    config.touch()
    await sandbox.settle_clone("clone-1", "https://git.example/a.git")
    return config


async def every_sandbox_is_known(pool: SandboxPoolManager, table: SandboxTable, root: Path) -> bool:
    warm = await table.named(SandboxState.WARM)
    taken = await table.find(workspace(0))
    return pool.warm == len(warm) >= 3 and sandboxes(root) == {*warm, taken} - {None}


def sandboxes(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}
