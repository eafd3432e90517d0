"""Several instances of approach 2 on one database, one Redis and one place of sandboxes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from backends.common.fencing import DIRECTORY
from tests.integration.backends.test_contract import ok
from tests.support.redis_process import running_redis
from tests.support.services import (
    TOKEN,
    Agent,
    Service,
    Start,
    Workspace,
    agent_on,
    sandbox_home,
    started_service,
    tree_of,
)

AUTH = {"Crossfade-Auth": TOKEN}


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[list[Service]]:
    """Two."""
    with running_redis() as redis, sandbox_home() as home:
        env = {
            "CROSSFADE_REDIS_URL": redis.url,
            "CROSSFADE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}",
        }
        start = Start(env=env, local_remotes=[tmp_path])
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(started_service("approach2", tmp_path / f"data-{n}", home, start))
                for n in range(2)
            ]


async def agents_of(stack: AsyncExitStack, replicas: list[Service], workspace: Workspace) -> list[Agent]:
    return [await stack.enter_async_context(agent_on("rest", service.url, workspace)) for service in replicas]


async def test_any_instance_serves_any_workspace(replicas: list[Service], bare: Path, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        here, there = await agents_of(stack, replicas, Workspace())
        await ok(here, "git.clone", url=str(bare))
        await ok(there, "file.write", path="a", content="1")
        await ok(here, "git.add", files=["a"])
        head = (await ok(there, "git.commit", message="both"))["head"]
        assert (await ok(here, "git.status"))["head"] == head
        # A clone by one is seen by the other, which knows the workspace already.
        await ok(there, "git.clone", url=str(bare))
        assert (await ok(here, "git.status"))["clean"]
        assert (await here.call("file.read", path="a")).code == "not_found"
        records = []
        for service in replicas:
            async with httpx.AsyncClient(base_url=service.url, headers=AUTH) as client:
                records.append((await client.get("/v1/workspaces/agent-1/task-1")).json())
        assert records[0] == records[1]


async def test_writers_on_all_instances_never_meet(replicas: list[Service], bare: Path) -> None:
    async with AsyncExitStack() as stack:
        here, there = await agents_of(stack, replicas, Workspace())
        await ok(here, "git.clone", url=str(bare))

        async def commit(agent: Agent, number: int) -> str | None:
            name = f"file-{number}"
            for operation, arguments in (
                ("file.write", {"path": name, "content": name}),
                ("git.add", {"files": [name]}),
                ("git.commit", {"message": name}),
            ):
                answer = await agent.call(operation, **arguments)
                if answer.is_error:
                    return answer.code
            return None

        codes = await asyncio.gather(*(commit(agent, n) for n, agent in enumerate([here, there] * 6)))
        # Another one's commit may take one's file along; git's own lock is never met.
        assert set(codes) <= {None, "nothing_to_commit", "workspace_busy"}
        status = await ok(there, "git.status")
        assert not status["untracked"] or set(codes) & {"workspace_busy"}


async def test_the_same_key_on_two_instances_has_one_effect(replicas: list[Service], bare: Path) -> None:
    workspace = Workspace(agent=f"agent-{uuid.uuid4().hex[:8]}")
    async with AsyncExitStack() as stack:
        here, _ = await agents_of(stack, replicas, workspace)
        await ok(here, "git.clone", url=str(bare))
        keyed = Workspace(workspace.agent, more={"Idempotency-Key": "one"})
        both = await agents_of(stack, replicas, keyed)
        first = await ok(both[0], "git.create_branch", name="topic")
        assert await ok(both[1], "git.create_branch", name="topic") == first


async def test_a_writer_that_was_overtaken_does_nothing(replicas: list[Service], bare: Path) -> None:
    async with AsyncExitStack() as stack:
        here, _ = await agents_of(stack, replicas, Workspace())
        await ok(here, "git.clone", url=str(bare))
        await ok(here, "file.write", path="a", content="1")
        fence = (await tree_of(replicas[0], here)).parent / DIRECTORY / "fence"
        number = int(fence.read_text())
        # As if another instance had held the lock later than whoever comes now.
        fence.write_text(f"{number * 2}\n")
        for operation, arguments in (
            ("file.write", {"path": "a", "content": "2"}),
            ("file.delete", {"path": "a"}),
            ("git.add", {"files": ["a"]}),
            ("git.clone", {"url": str(bare)}),
        ):
            assert (await here.call(operation, **arguments)).code == "lock_lost"
        assert (await ok(here, "file.read", path="a"))["content"] == "1"
        fence.write_text(f"{number}\n")
        await ok(here, "git.add", files=["a"])
        assert int(fence.read_text()) > number
