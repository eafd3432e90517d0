"""Several instances of approach 2 on one database, one Redis and one place of sandboxes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from backends.common.fencing import DIRECTORY
from tests.integration.backends.test_contract import ok
from tests.support.services import (
    TOKEN,
    Agent,
    Service,
    Workspace,
    agent_on,
    tree_of,
)

AUTH = {"Crossfade-Auth": TOKEN}


@pytest.fixture(params=["local", "e2b"])
def replicas(request: pytest.FixtureRequest) -> list[Service]:
    """Two; the second has started later, and taken over what the first keeps warm."""
    found: list[Service] = request.getfixturevalue(f"replicas_on_{request.param}")
    return found


async def agents_of(stack: AsyncExitStack, replicas: list[Service], workspace: Workspace) -> list[Agent]:
    return [await stack.enter_async_context(agent_on("rest", service.url, workspace)) for service in replicas]


async def test_any_instance_serves_any_workspace(replicas: list[Service], bare: Path, workspace: Workspace) -> None:
    async with AsyncExitStack() as stack:
        here, there = await agents_of(stack, replicas, workspace)
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
                records.append((await client.get(f"/v1/workspaces/{workspace.agent}/{workspace.task}")).json())
        assert records[0] == records[1]


async def test_an_instance_neither_denies_nor_destroys_what_another_one_cloned(
    replicas: list[Service], bare: Path, workspace: Workspace
) -> None:
    """It has known the sandbox since that was empty."""
    async with AsyncExitStack() as stack:
        here, there = await agents_of(stack, replicas, workspace)
        await ok(here, "git.clone", url=str(bare))
        await ok(here, "file.write", path="precious", content="1")
        assert (await there.call("git.clone", url=str(bare), branch="no-such-branch")).code == "not_found"
        assert (await there.call("git.clone", url="/etc")).code == "remote_refused"
        for agent in (here, there):
            assert (await ok(agent, "git.status"))["untracked"] == ["precious"]


async def test_writers_on_all_instances_never_meet(replicas: list[Service], bare: Path, workspace: Workspace) -> None:
    async with AsyncExitStack() as stack:
        here, there = await agents_of(stack, replicas, workspace)
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


async def test_the_same_key_on_two_instances_has_one_effect(
    replicas: list[Service], bare: Path, workspace: Workspace
) -> None:
    async with AsyncExitStack() as stack:
        here, _ = await agents_of(stack, replicas, workspace)
        await ok(here, "git.clone", url=str(bare))
        keyed = Workspace(workspace.agent, more={"Idempotency-Key": "one"})
        both = await agents_of(stack, replicas, keyed)
        first = await ok(both[0], "git.create_branch", name="topic")
        assert await ok(both[1], "git.create_branch", name="topic") == first


async def test_a_writer_that_was_overtaken_does_nothing(
    replicas: list[Service], bare: Path, workspace: Workspace
) -> None:
    async with AsyncExitStack() as stack:
        here, _ = await agents_of(stack, replicas, workspace)
        await ok(here, "git.clone", url=str(bare))
        await ok(here, "file.write", path="a", content="1")
        box = (await tree_of(replicas[0], here)).parent
        [fence] = [*box.glob(f"{DIRECTORY}/fence"), *box.parent.glob(f"{DIRECTORY}/fence")]
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
