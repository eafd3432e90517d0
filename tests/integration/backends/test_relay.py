"""Writes that the other side has done already: relayed with the commit at which that side stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.backends.test_contract import ok
from tests.support.services import TOKEN, Agent, Service, Workspace, agent_on, git

UNKNOWN = "0" * 40
AT = "2026-03-04T05:06:07Z"


@asynccontextmanager
async def relayed(service: Service, workspace: Workspace, head: str | None = None) -> AsyncIterator[Agent]:
    more = {"Crossfade-Auth": TOKEN, "Crossfade-Copy": "relay", "Crossfade-Request-Time": AT}
    if head is not None:
        more["Crossfade-Expect-Head"] = head
    async with agent_on("rest", service.url, Workspace(workspace.agent, workspace.task, more)) as agent:
        yield agent


def move_on(bare: Path, tmp_path: Path) -> tuple[str, str]:
    """Adds a commit to the remote; its head before and after."""
    before = git("rev-parse", "main", cwd=bare)
    work = tmp_path / "mover"
    git("clone", "--quiet", str(bare), str(work))
    (work / "more").write_text(before)
    git("add", "--all", cwd=work)
    git("commit", "--quiet", "--message=more", cwd=work)
    git("push", "--quiet", cwd=work)
    return before, git("rev-parse", "main", cwd=bare)


@pytest.mark.everywhere
async def test_a_clone_brings_the_commit_of_the_other_side(
    service: Service, workspace: Workspace, bare: Path, tmp_path: Path
) -> None:
    before, after = move_on(bare, tmp_path)
    async with relayed(service, workspace, before) as relay:
        assert await ok(relay, "git.clone", url=str(bare)) == {"branch": "main", "head": before}
        status = await ok(relay, "git.status")
        assert status["clean"]
        assert (await ok(relay, "git.log"))["commits"][0]["sha"] == before
    async with relayed(service, workspace, after) as relay:
        assert (await ok(relay, "git.pull"))["head"] == after


async def test_a_shallow_clone_brings_the_commit_of_the_other_side_however_far_the_remote_is(
    service: Service, workspace: Workspace, bare: Path, tmp_path: Path
) -> None:
    first, before = move_on(bare, tmp_path)
    for number in range(2):
        (tmp_path / f"again-{number}").mkdir()
        move_on(bare, tmp_path / f"again-{number}")
    async with relayed(service, workspace, before) as relay:
        assert await ok(relay, "git.clone", url=bare.as_uri(), depth=1) == {"branch": "main", "head": before}
        assert (await ok(relay, "git.status"))["clean"]
        assert [row["sha"] for row in (await ok(relay, "git.log"))["commits"]] == [before]
    async with relayed(service, workspace, first) as relay:
        assert (await ok(relay, "git.clone", url=bare.as_uri(), depth=1))["head"] == first
    async with relayed(service, workspace, UNKNOWN) as relay:
        assert (await relay.call("git.clone", url=bare.as_uri(), depth=1)).code == "diverged"


async def test_a_pull_brings_the_commit_of_the_other_side(
    cloned: Agent, service: Service, workspace: Workspace, bare: Path, tmp_path: Path
) -> None:
    before, middle = move_on(bare, tmp_path)
    (tmp_path / "again").mkdir()
    _, latest = move_on(bare, tmp_path / "again")
    assert len({before, middle, latest}) == 3
    async with relayed(service, workspace, middle) as relay:
        assert await ok(relay, "git.pull") == {"branch": "main", "head": middle, "updated": True}
    assert (await ok(cloned, "git.pull"))["head"] == latest
    async with relayed(service, workspace, middle) as relay:
        assert (await relay.call("git.pull")).code == "diverged"


@pytest.mark.parametrize(("operation", "more"), [("git.clone", {}), ("git.pull", {})])
async def test_a_commit_that_the_remote_does_not_have_is_told(
    cloned: Agent, service: Service, workspace: Workspace, bare: Path, operation: str, more: dict[str, Any]
) -> None:
    arguments = {"url": str(bare)} if operation == "git.clone" else more
    head = (await ok(cloned, "git.log"))["commits"][0]["sha"]
    async with relayed(service, workspace, UNKNOWN) as relay:
        assert (await relay.call(operation, **arguments)).code == "diverged"
    assert (await ok(cloned, "git.status"))["head"] == head


async def test_a_commit_is_compared_after_it_is_made(cloned: Agent, service: Service, workspace: Workspace) -> None:
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    async with relayed(service, workspace) as relay:
        first = await ok(relay, "git.commit", message="mine")
    async with relayed(service, workspace, first["head"]) as relay:
        await ok(relay, "file.write", path="a", content="2")
        await ok(relay, "git.add", files=["a"])
        assert (await relay.call("git.commit", message="other")).code == "diverged"


@pytest.mark.everywhere
async def test_a_push_is_not_made_again_and_its_branch_is_noted(
    cloned: Agent, service: Service, workspace: Workspace, bare: Path
) -> None:
    pushed = git("rev-parse", "main", cwd=bare)
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    head = (await ok(cloned, "git.commit", message="mine"))["head"]
    async with relayed(service, workspace, UNKNOWN) as relay:
        assert (await relay.call("git.push")).code == "diverged"
    async with relayed(service, workspace, head) as relay:
        assert await ok(relay, "git.push") == {"remote": "origin", "branch": "main", "head": head, "pushed": True}
        assert (await relay.call("git.push", branch="nope")).code == "not_found"
    assert git("rev-parse", "main", cwd=bare) == pushed


async def test_a_client_cannot_relay(cloned: Agent, service: Service, workspace: Workspace, bare: Path) -> None:
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    head = (await ok(cloned, "git.commit", message="mine"))["head"]
    more = {"Crossfade-Copy": "relay", "Crossfade-Expect-Head": UNKNOWN}
    async with agent_on("rest", service.url, Workspace(workspace.agent, more=more)) as client:
        assert (await ok(client, "git.push"))["pushed"]
    assert git("rev-parse", "main", cwd=bare) == head


async def test_an_expected_head_that_is_no_commit_is_refused(
    cloned: Agent, service: Service, workspace: Workspace
) -> None:
    async with relayed(service, workspace, "--force") as relay:
        assert (await relay.call("git.push")).code == "invalid_argument"
