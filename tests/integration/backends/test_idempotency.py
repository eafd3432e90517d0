"""Keyed writes: the same key gives the same answer and has one effect, on both services and over both surfaces."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.backends.test_contract import ok
from tests.support.services import (
    SERVICES,
    Agent,
    Service,
    Start,
    Workspace,
    agent_on,
    bare_repository,
    end,
    git,
    launch,
    sandbox_home,
    wait_ready,
)


@asynccontextmanager
async def keyed(service: Service, workspace: Workspace, key: str, surface: str = "rest") -> AsyncIterator[Agent]:
    more = {**workspace.more, "Idempotency-Key": key}
    async with agent_on(surface, service.url, Workspace(workspace.agent, workspace.task, more)) as agent:
        yield agent


@pytest.mark.everywhere
@pytest.mark.parametrize("again_on", ["rest", "mcp"])
async def test_the_same_key_gives_the_same_answer_and_one_effect(
    cloned: Agent, service: Service, workspace: Workspace, again_on: str
) -> None:
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    async with keyed(service, workspace, "one") as first, keyed(service, workspace, "one", again_on) as again:
        made = await ok(first, "git.commit", message="mine")
        assert await ok(again, "git.commit", message="mine") == made
    assert len((await ok(cloned, "git.log"))["commits"]) == 2


async def test_an_error_is_an_answer_too(cloned: Agent, service: Service, workspace: Workspace) -> None:
    async with keyed(service, workspace, "one") as agent:
        assert (await agent.call("git.commit", message="x")).code == "nothing_to_commit"
        await ok(cloned, "file.write", path="a", content="1")
        await ok(cloned, "git.add", files=["a"])
        assert (await agent.call("git.commit", message="x")).code == "nothing_to_commit"


async def test_a_key_belongs_to_its_workspace_and_operation(
    cloned: Agent, service: Service, workspace: Workspace, bare: Path
) -> None:
    async with keyed(service, workspace, "one") as agent:
        await ok(agent, "file.write", path="a", content="1")
        await ok(agent, "git.add", files=["a"])
    async with keyed(service, Workspace(workspace.agent, "other"), "one") as elsewhere:
        await ok(elsewhere, "git.clone", url=str(bare))
        await ok(elsewhere, "file.write", path="a", content="2")


async def test_other_arguments_under_the_same_key_are_refused_and_another_token_is_not(
    cloned: Agent, service: Service, workspace: Workspace
) -> None:
    async with keyed(service, workspace, "one") as agent:
        await ok(agent, "file.write", path="a", content="1")
        assert (await agent.call("file.write", path="a", content="2")).code == "idempotency_mismatch"
        assert (await ok(cloned, "file.read", path="a"))["content"] == "1"
    async with keyed(service, workspace, "two") as agent:
        pulled = await ok(agent, "git.pull", token="old")
        assert await ok(agent, "git.pull", token="new") == pulled
        # Named by arguments or by headers, it is the same workspace.
        assert await ok(agent, "git.pull", agent_id=workspace.agent, task_id=workspace.task) == pulled


async def test_reads_take_no_notice_of_keys(cloned: Agent, service: Service, workspace: Workspace) -> None:
    async with keyed(service, workspace, "one") as agent:
        assert (await ok(agent, "git.status"))["clean"]
        await ok(cloned, "file.write", path="a", content="1")
        assert not (await ok(agent, "git.status"))["clean"]


@pytest.mark.parametrize("key", ["", "with space", "x" * 256])
async def test_a_key_that_is_none_is_refused(cloned: Agent, service: Service, workspace: Workspace, key: str) -> None:
    async with keyed(service, workspace, key) as agent:
        assert (await agent.call("file.write", path="a", content="1")).code == "invalid_argument"


async def test_of_calls_at_once_with_one_key_one_has_the_effect(
    cloned: Agent, service: Service, workspace: Workspace
) -> None:
    async with keyed(service, workspace, "one") as agent:
        answers = await asyncio.gather(*(agent.call("git.create_branch", name="topic") for _ in range(6)))
    good = [answer for answer in answers if not answer.is_error]
    assert good
    assert all(answer.content == good[0].content for answer in good)
    assert {answer.code for answer in answers if answer.is_error} <= {"idempotency_in_progress"}


async def test_a_call_that_did_nothing_may_be_made_again(service: Service, workspace: Workspace, bare: Path) -> None:
    async with keyed(service, workspace, "one") as agent:
        assert (await agent.call("file.write", path="a", content="1")).code == "unknown_workspace"
        async with agent_on("rest", service.url, workspace) as other:
            await ok(other, "git.clone", url=str(bare))
        await ok(agent, "file.write", path="a", content="1")


@pytest.mark.parametrize("name", SERVICES)
async def test_after_a_crash_answers_are_known_and_what_was_begun_is_unknown(name: str, tmp_path: Path) -> None:
    bare = bare_repository(tmp_path)
    # The remote of the second push never answers, so the service dies in the middle of it.
    hook = bare / "hooks" / "pre-receive"
    begun = tmp_path / "begun"
    workspace = Workspace(agent=f"agent-{uuid.uuid4().hex[:12]}")
    start = Start(local_remotes=[tmp_path])
    with sandbox_home() as home:
        service = launch(name, tmp_path / "data", home, start)
        try:
            await wait_ready(service)
            async with agent_on("rest", service.url, workspace) as agent:
                await ok(agent, "git.clone", url=str(bare))
                await ok(agent, "file.write", path="a", content="1")
                await ok(agent, "git.add", files=["a"])
            async with keyed(service, workspace, "commit") as agent:
                made = await ok(agent, "git.commit", message="mine")
            hook.write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 600\n")
            hook.chmod(0o755)
            async with keyed(service, workspace, "push") as agent:
                pushing = asyncio.create_task(agent.call("git.push"))
                async with asyncio.timeout(30):
                    while not begun.exists():
                        await asyncio.wait([pushing], timeout=0.05)
                async with agent_on("rest", service.url, workspace) as other:
                    del other
                assert (await agent.call("git.push")).code == "idempotency_in_progress"
                service.process.kill()
                await asyncio.gather(pushing, return_exceptions=True)
        finally:
            end(service)
        hook.unlink()
        service = launch(name, tmp_path / "data", home, start)
        try:
            await wait_ready(service)
            async with keyed(service, workspace, "commit") as agent:
                assert await ok(agent, "git.commit", message="mine") == made
            async with keyed(service, workspace, "push") as agent:
                assert (await agent.call("git.push")).code == "outcome_unknown"
            assert git("rev-parse", "main", cwd=bare) != made["head"]
            async with keyed(service, workspace, "push again") as agent:
                assert (await agent.call("git.push")).code == "invalid_argument"
            async with keyed(service, workspace, "push-again") as agent:
                assert (await ok(agent, "git.push"))["pushed"]
            assert git("rev-parse", "main", cwd=bare) == made["head"]
        finally:
            end(service)
