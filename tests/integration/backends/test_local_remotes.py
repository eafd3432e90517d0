"""A local remote, served outside the sandbox: what becomes of both ends when one of them is no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.backends.test_processes import processes_with
from tests.support.services import (
    SERVICES,
    Agent,
    Answer,
    Service,
    Start,
    agent_on,
    bare_repository,
    git,
    sandbox_home,
    started_service,
)
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("name", SERVICES)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return bare_repository(tmp_path)


@pytest.fixture
def home() -> Iterator[Path]:
    with sandbox_home() as path:
        yield path


@contextlib.asynccontextmanager
async def hanging_push(service: Service, bare: Path) -> AsyncIterator[asyncio.Task[Answer]]:
    """A push of a new commit that the remote's hook neither takes nor refuses."""
    hook, gate = bare / "hooks" / "pre-receive", bare / "gate"
    os.mkfifo(gate)
    hook.write_text(f"#!/bin/sh\ncat {gate}\n")
    hook.chmod(0o755)
    async with agent_on("rest", service.url) as agent:
        for operation, arguments in (
            ("git.clone", {"url": str(bare)}),
            ("file.write", {"path": "a", "content": "x"}),
            ("git.add", {"files": ["a"]}),
            ("git.commit", {"message": "m"}),
        ):
            assert not (await agent.call(operation, **arguments)).is_error
        pushing = asyncio.create_task(agent.call("git.push"))
        try:
            await until(lambda: processes_with(str(gate)), "the hook runs")
            yield pushing
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)


async def test_a_client_that_leaves_a_push_ends_both_ends_and_frees_the_workspace(
    name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    before = git("rev-parse", "main", cwd=bare)
    async with started_service(name, tmp_path / "data", home, Start(local_remotes=[tmp_path])) as service:
        async with hanging_push(service, bare) as pushing:
            pushing.cancel()
            await until(lambda: processes_with(str(bare)) == [], "both ends have ended")
        assert git("rev-parse", "main", cwd=bare) == before
        (bare / "hooks" / "pre-receive").unlink()
        async with agent_on("rest", service.url) as agent:
            pushed = await agent.call("git.push")
            assert (pushed.is_error, pushed.content["pushed"]) == (False, True)


async def test_a_service_that_is_killed_during_a_push_leaves_nothing_of_either_end(
    name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    before = git("rev-parse", "main", cwd=bare)
    async with (
        started_service(name, tmp_path / "data", home, Start(local_remotes=[tmp_path])) as service,
        hanging_push(service, bare),
    ):
        service.process.kill()
        await until(lambda: processes_with(str(bare)) == [], "both ends have ended")
    assert git("rev-parse", "main", cwd=bare) == before


async def test_a_deadline_ends_both_ends_of_a_push(name: str, tmp_path: Path, home: Path, bare: Path) -> None:
    start = Start({"CROSSFADE_LONGEST_OPERATION_S": "3"}, local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        hanging_push(service, bare) as pushing,
    ):
        assert (await pushing).code == "deadline"
        assert processes_with(str(bare)) == []


@contextlib.asynccontextmanager
async def impatient(name: str, tmp_path: Path, home: Path) -> AsyncIterator[Agent]:
    """A service that gives an operation less time than an end of a local remote would wait for its other end."""
    start = Start({"CROSSFADE_LONGEST_OPERATION_S": "4"}, local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        yield agent


async def test_a_far_end_that_nobody_comes_to_meet_keeps_nobody_waiting(
    name: str, tmp_path: Path, home: Path, bare: Path
) -> None:
    async with impatient(name, tmp_path, home) as agent:
        assert not (await agent.call("git.clone", url=str(bare))).is_error
        # Git finds that there is no such branch before it connects.
        assert (await agent.call("git.push", branch="no-such")).code == "not_found"


async def test_a_far_end_that_fails_keeps_nobody_waiting(name: str, tmp_path: Path, home: Path, bare: Path) -> None:
    corrupt(bare)
    async with impatient(name, tmp_path, home) as agent:
        answer = await agent.call("git.clone", url=str(bare))
        assert answer.code == "git_failed"
        assert str(tmp_path) not in answer.content["message"]


def corrupt(bare: Path) -> None:
    for path in bare.glob("objects/*/*"):
        path.chmod(0o644)
        path.write_bytes(b"x")


def give_away(bare: Path, owner: int) -> None:
    subprocess.run(["chown", "-R", f"{owner}:{owner}", str(bare)], check=True)
    subprocess.run(["chmod", "-R", "go-rwx", str(bare)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_a_repository_of_somebody_else_stays_theirs(name: str, tmp_path: Path, home: Path) -> None:
    """The far end runs as the owner: nothing root's is left in it, and no other user must be able to write it."""
    with sandbox_home() as place:
        bare = bare_repository(place)
        owner = 54_321
        give_away(bare, owner)
        start = Start(local_remotes=[place])
        async with (
            started_service(name, tmp_path / "data", home, start) as service,
            agent_on("rest", service.url) as agent,
        ):
            for operation, arguments in (
                ("git.clone", {"url": str(bare)}),
                ("file.write", {"path": "a", "content": "x"}),
                ("git.add", {"files": ["a"]}),
                ("git.commit", {"message": "m"}),
                ("git.push", {}),
            ):
                answer = await agent.call(operation, **arguments)
                assert not answer.is_error, answer.content
        assert {path.lstat().st_uid for path in bare.rglob("*")} == {owner}
