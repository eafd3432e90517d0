"""Sandboxes of a service: how many a caller leaves behind, and what becomes of a workspace whose sandbox is no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backends.common.removal import remove_tree
from tests.integration.backends.test_processes import names_in
from tests.support.git_http import git_over_http
from tests.support.services import (
    SERVICES,
    TOKEN,
    Agent,
    Service,
    Start,
    Workspace,
    agent_on,
    bare_repository,
    has_been_surveyed,
    sandbox_home,
    started_service,
    tree_of,
)
from tests.support.waiting import until, until_async

both = pytest.mark.parametrize("name", SERVICES)
only_with_a_database = pytest.mark.parametrize("name", ["approach2"])


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return bare_repository(tmp_path)


@pytest.fixture
def home() -> Iterator[Path]:
    with sandbox_home() as path:
        yield path


async def lose_sandbox(service: Service, agent: Agent, part: str = ".") -> None:
    """Removes the sandbox of a workspace, or a part of it, behind the service's back."""
    tree = await tree_of(service, agent)
    # Who looks at the workspace behind the answer writes beside it: something would be left.
    await has_been_surveyed(service)
    await asyncio.to_thread(remove_tree, tree.parent.parent / part)


async def is_in_no_inventory(service: Service) -> bool:
    """Whether the workspace of the tests is neither listed nor found."""
    headers = {"Crossfade-Auth": TOKEN}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as client:
        one = await client.get("/v1/workspaces/agent-1/task-1")
        listed = (await client.get("/v1/workspaces")).json()["workspaces"]
        return one.status_code == 404 and not listed


@both
async def test_first_clones_that_fail_leave_no_sandbox(name: str, tmp_path: Path, home: Path, bare: Path) -> None:
    async with started_service(name, tmp_path / "data", home, Start(local_remotes=[tmp_path])) as service:
        before = len(names_in(home / name))
        for number in range(4):
            async with agent_on("rest", service.url, Workspace(task=f"task-{number}")) as agent:
                assert (await agent.call("git.clone", url="/etc")).code == "remote_refused"
                assert (await agent.call("git.clone", url=str(bare), branch="no-such")).code == "not_found"
                assert (await agent.call("git.status")).code == "unknown_workspace"

        async def left() -> bool:
            return len(names_in(home / name)) == before

        await until_async(left, "no more than before are left")
        async with agent_on("rest", service.url, Workspace(task="task-0")) as agent:
            assert not (await agent.call("git.clone", url=str(bare))).is_error


@both
@pytest.mark.parametrize("part", [".", "box"])
async def test_a_workspace_starts_afresh_when_its_sandbox_is_gone(
    part: str, name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    """While the service runs, and while it does not; in approach 2 the table outlives the sandbox."""
    start = Start(local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert not (await agent.call("git.clone", url=str(bare))).is_error
        await lose_sandbox(service, agent, part)
        assert (await agent.call("git.status")).code == "unknown_workspace"
        assert (await agent.call("file.write", path="a", content="")).code == "unknown_workspace"
        if name == "approach1":
            # In approach 2 the row goes with the next clone, or with the sweep of the pool.
            await until_async(lambda: is_in_no_inventory(service), "nobody is told of it any more")
        assert not (await agent.call("git.clone", url=str(bare))).is_error
        await lose_sandbox(service, agent, part)
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert (await agent.call("git.status")).code == "unknown_workspace"
        assert not (await agent.call("git.clone", url=str(bare))).is_error
        assert (await agent.call("git.status")).content["clean"]


@both
@pytest.mark.parametrize("part", [".", "box"])
async def test_a_call_whose_sandbox_dies_says_so_and_its_workspace_starts_afresh(
    part: str, name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    with git_over_http(tmp_path) as remote:
        start = Start({"CROSSFADE_ALLOWED_REMOTES": "127.0.0.1"}, local_remotes=[tmp_path])
        async with (
            started_service(name, tmp_path / "data", home, start) as service,
            agent_on("rest", service.url) as agent,
        ):
            assert not (await agent.call("git.clone", url=str(bare))).is_error
            tree = await tree_of(service, agent)
            await has_been_surveyed(service)
            cloning = asyncio.create_task(agent.call("git.clone", url=f"{remote.url}/slow/project.git"))
            await until(remote.arrived.is_set, "git asks the remote")
            await asyncio.to_thread(remove_tree, tree.parent.parent / part)
            remote.released.set()
            answer = await cloning
            gone = {"code": "sandbox_unavailable", "message": "the sandbox is gone", "retryable": True}
            assert answer.content == gone
            assert (await agent.call("git.status")).code == "unknown_workspace"
            assert not (await agent.call("git.clone", url=str(bare))).is_error
            assert (await agent.call("git.status")).content["clean"]


@both
async def test_a_repository_that_is_damaged_is_said_and_can_be_cloned_again(
    name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(local_remotes=[tmp_path])) as service,
        agent_on("rest", service.url) as agent,
    ):
        for part in (".git", "."):
            await agent.call("git.clone", url=str(bare))
            tree = await tree_of(service, agent)
            await has_been_surveyed(service)
            await asyncio.to_thread(remove_tree, tree / part)
            answer = await agent.call("git.status")
            assert (answer.code, answer.content["message"]) == ("internal", "the repository is damaged; clone it again")
        assert not (await agent.call("git.clone", url=str(bare))).is_error


@both
async def test_a_sandbox_that_cannot_be_read_is_not_taken_for_gone(
    name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    start = Start(local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        await agent.call("git.clone", url=str(bare))
        await agent.call("file.write", path="mine.txt", content="x")
        note = (await tree_of(service, agent)).parent.parent / "meta" / "clone.json"
    # A directory cannot be read as a file, by root neither.
    note.rename(note.with_name("kept"))
    note.mkdir()
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        for operation, arguments in (("git.status", {}), ("git.clone", {"url": str(bare)})):
            assert (await agent.call(operation, **arguments)).code == "sandbox_unavailable"
        note.rmdir()
        note.with_name("kept").rename(note)
        assert (await agent.call("git.status")).content["untracked"] == ["mine.txt"]


def rename_tables(database: Path, before: str, after: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for table in ("git_sandboxes", "alembic_version"):
            connection.execute(f"ALTER TABLE {before.format(table)} RENAME TO {after.format(table)}")


@only_with_a_database
async def test_a_service_without_its_database_is_not_ready(name: str, tmp_path: Path, home: Path, bare: Path) -> None:
    database = tmp_path / "data" / "approach2.db"
    async with (
        started_service(name, tmp_path / "data", home, Start(local_remotes=[tmp_path])) as service,
        agent_on("rest", service.url) as agent,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        await agent.call("git.clone", url=str(bare))
        rename_tables(database, "{}", "hidden_{}")
        answer = await agent.call("git.status")
        assert (answer.code, answer.content["retryable"]) == ("sandbox_unavailable", True)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "waiting")
        assert (await client.get("/healthz")).status_code == 200
        rename_tables(database, "hidden_{}", "{}")

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until_async(is_ready, "it is ready again")
        assert not (await agent.call("git.status")).is_error


@only_with_a_database
async def test_a_database_that_cannot_be_used_is_said_without_its_password(name: str, tmp_path: Path) -> None:
    for url in ("postgresql+nothing://user:s3cret@db/x", "s3cret", f"sqlite+aiosqlite:///{tmp_path}/s3cret/absent/db"):
        env = {**os.environ, "CROSSFADE_DATABASE_URL": url, "CROSSFADE_SANDBOX_ROOT": str(tmp_path / "boxes")}
        command = [sys.executable, "-m", f"backends.{name}", "--port", "0", "--data-dir", str(tmp_path / "d")]
        done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, check=False)
        assert done.returncode == 1, url
        assert b"s3cret" not in done.stderr, url
        assert b"Traceback" not in done.stderr, url
        assert b"database" in done.stderr.lower(), url
