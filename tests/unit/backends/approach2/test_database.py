"""The tables on SQLite and PostgreSQL: migrations, keyed calls, inventory."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from backends.approach2.calls import CallTable
from backends.approach2.database import Database, migrate, with_driver
from backends.approach2.models import Base, SandboxState
from backends.approach2.table import SandboxTable
from backends.common.calls import CallId
from backends.common.errors import Code, ServiceError
from backends.common.inventory import Record, State, sum_of
from backends.common.workspace import WorkspaceId

WORKSPACE = WorkspaceId("agent", "task")
STATE = State("main", "a" * 40, "d" * 64)


def call(key: str = "one", digest: str = "x") -> CallId:
    return CallId(WORKSPACE, "git.push", key, digest)


async def serving(table: SandboxTable, workspace: WorkspaceId, name: str = "warm0001") -> None:
    assert await table.add(name, 100)
    assert await table.put_warm(name)
    assert await table.assign(name, workspace)


def shape(connection: Connection) -> dict[str, Any]:
    found = inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (type(column["type"].as_generic()).__name__, column["nullable"])
                for column in found.get_columns(name)
            },
            "indexes": {
                (index["name"], tuple(index["column_names"]))
                for index in found.get_indexes(name)
                if not index.get("duplicates_constraint")
            },
            "unique": {constraint["name"] for constraint in found.get_unique_constraints(name)},
            "primary": found.get_pk_constraint(name)["constrained_columns"],
        }
        for name in found.get_table_names()
        if name != "alembic_version"
    }


async def test_the_migration_makes_what_the_models_say_and_goes_back(database_url: str) -> None:
    engine = create_async_engine(with_driver(database_url))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
            migrated = await connection.run_sync(shape)
            await connection.run_sync(migrate, "base")
            assert await connection.run_sync(shape) == {}
            await connection.run_sync(Base.metadata.create_all)
            assert migrated == await connection.run_sync(shape)
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(migrate)
            assert await connection.run_sync(shape) == migrated
    finally:
        await engine.dispose()


STARTING = """
import asyncio, sys
from backends.approach2.database import Database
async def start():
    database = Database(sys.argv[1])
    await database.start()
    assert await database.why_not_ready() is None
    await database.aclose()
asyncio.run(start())
"""


async def test_instances_that_start_at_once_migrate_once(database_url: str) -> None:
    database = Database(database_url)
    try:
        assert await database.why_not_ready() == "the database is not migrated"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        started = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", STARTING, database_url, env=env)
            for _ in range(3)
        ]
        assert [await process.wait() for process in started] == [0, 0, 0]
        assert await database.why_not_ready() is None
        await database.start()
    finally:
        await database.aclose()


async def test_a_database_that_is_not_there_is_told_without_its_password() -> None:
    database = Database("postgresql://user:secret-word@127.0.0.1:1/nowhere", server_s=0.5)
    with pytest.raises(ServiceError) as caught:
        await database.start()
    why = await database.why_not_ready()
    assert why is not None
    assert "secret-word" not in caught.value.message + why
    await database.aclose()


async def test_a_call_is_found_by_its_key_and_not_by_its_arguments(database: Database) -> None:
    calls = CallTable(database)
    assert await calls.find(call()) is None
    await calls.begin(call())
    noted = await calls.find(call(digest="other"))
    assert noted is not None
    assert (noted.digest, noted.answer) == ("x", None)
    assert noted.at.tzinfo is UTC
    with pytest.raises(ServiceError) as caught:
        await calls.begin(call())
    assert caught.value.code is Code.IDEMPOTENCY_IN_PROGRESS
    await calls.answer(call(), {"result": {"é": [1, None]}})
    noted = await calls.find(call())
    assert noted is not None
    assert noted.answer == {"result": {"é": [1, None]}}
    await calls.forget(call())
    assert await calls.find(call()) is None


async def test_calls_are_kept_for_a_day(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallTable(database)
    await calls.begin(call())
    present = datetime.now(UTC)
    monkeypatch.setattr("backends.approach2.calls.now", lambda: present + timedelta(hours=23, minutes=59))
    assert await calls.find(call()) is not None
    monkeypatch.setattr("backends.approach2.calls.now", lambda: present + timedelta(hours=24, minutes=1))
    assert await calls.find(call()) is None
    await calls.begin(call())


async def test_versions_grow_and_only_the_latest_is_surveyed(database: Database) -> None:
    table = SandboxTable(database)
    await serving(table, WORKSPACE)
    assert await table.get(WORKSPACE) is None
    assert await table.page("", "", None, 10) == []
    earlier = await table.changed(WORKSPACE, "https://example.org/a.git")
    version = await table.changed(WORKSPACE, "https://example.org/a.git")
    assert version > earlier
    await table.surveyed(WORKSPACE, earlier, STATE)
    assert await table.unsurveyed("") == [await table.get(WORKSPACE)]
    await table.surveyed(WORKSPACE, version, STATE)
    record = await table.get(WORKSPACE)
    assert record is not None
    assert (record.repository, record.version, record.state) == ("https://example.org/a.git", version, STATE)
    assert await table.unsurveyed("") == []
    assert await table.changed(WorkspaceId("no", "body"), "x") == 0
    # A later life of the workspace is none of the versions of this one.
    await table.remove("warm0001")
    await serving(table, WORKSPACE)
    assert await table.changed(WORKSPACE, "https://example.org/a.git") >= version


async def test_pages_follow_each_other_and_digests_add_up(database: Database) -> None:
    table = SandboxTable(database)
    records: list[Record] = []
    for number in range(60):
        workspace = WorkspaceId("agent", f"task-{number}")
        await serving(table, workspace, f"warm{number:04}")
        await table.changed(workspace, "https://example.org/a.git")
        await table.surveyed(workspace, 1, State("main", None, f"{number:064x}"))
        record = await table.get(workspace)
        assert record is not None
        records.append(record)
    records.sort(key=lambda record: record.workspace.digest)
    seen: list[Record] = []
    while page := await table.page("", seen[-1].workspace.digest if seen else "", None, 7):
        seen += page
    assert seen == records
    assert await table.page("", "", datetime.now(UTC) + timedelta(seconds=60), 10) == []
    for prefix in ("", "a", "ab", records[5].workspace.digest):
        within = [record for record in records if record.workspace.digest.startswith(prefix)]
        assert await table.page(prefix, "", None, 100) == within
        found = sum_of(prefix, await table.digests(prefix))
        assert (found.count, found.total) == (len(within), sum(r.fingerprint for r in within) % (1 << 128))


async def test_what_is_removed_is_in_no_list(database: Database) -> None:
    table = SandboxTable(database)
    await serving(table, WORKSPACE)
    await table.changed(WORKSPACE, "https://example.org/a.git")
    await table.remove("warm0001")
    assert await table.get(WORKSPACE) is None
    assert await table.digests("") == []
    assert await table.named(SandboxState.ASSIGNED) == []


async def test_instances_together_never_note_more_sandboxes_than_there_may_be(
    database: Database, database_url: str
) -> None:
    instances = [database, Database(database_url), Database(database_url)]
    added = await asyncio.gather(
        *(SandboxTable(instance).add(f"warm000{n}{m}", 4) for n, instance in enumerate(instances) for m in range(4))
    )
    assert sum(added) == 4
    assert len(await SandboxTable(database).names()) == 4
    for instance in instances[1:]:
        await instance.aclose()


async def test_instances_agree_on_the_name_of_their_deployment(database: Database, database_url: str) -> None:
    other = Database(database_url)
    here, there = await asyncio.gather(database.deployment(), other.deployment())
    assert here == there == await other.deployment()
    assert len(here) == 16
    await other.aclose()
