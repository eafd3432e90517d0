"""What is known of a keyed write whose end was troubled after it had its effect: it is never done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.common.contract import Clone, Commit
from backends.common.e2b_provider import E2BProvider, E2BSettings
from backends.common.errors import Code, ServiceError
from backends.common.git_operations import Call, perform
from backends.common.local_provider import LocalProvider
from backends.common.remotes import RemoteRules
from tests.support.fake_e2b import KEY, FakeE2B, running_fake_e2b
from tests.support.services import bare_repository, git, sandbox_home
from tests.support.simple_service import WORKSPACE, Simple, simple_service
from tests.support.waiting import until, until_async

ONCE = Call(key="once")


@dataclass
class Gate:
    """A remote that takes a push when it is told to, and remembers each.

    Attributes:
        bare: The repository.
    """

    bare: Path

    def __post_init__(self) -> None:
        place = self.bare.parent
        self.arrived, self.opened, self.log = place / "arrived", place / "opened", place / "log"
        hook = self.bare / "hooks" / "pre-receive"
        wait = f"while [ ! -e {self.opened} ]; do sleep 0.01; done"
        hook.write_text(f"#!/bin/sh\necho push >>{self.log}\ntouch {self.arrived}\n{wait}\n")
        hook.chmod(0o755)

    @property
    def pushes(self) -> int:
        return len(self.log.read_text().split())


def provider_on(cloud: FakeE2B) -> E2BProvider:
    return E2BProvider(E2BSettings("tests", KEY, owner="one", api_url=cloud.url, sandbox_url=cloud.url))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    (tmp_path / "remotes").mkdir()
    return bare_repository(tmp_path / "remotes")


@pytest.fixture
async def simple(tmp_path: Path, bare: Path) -> AsyncIterator[Simple]:
    with sandbox_home() as home:
        provider = LocalProvider(home / "service")
        async with simple_service(provider, tmp_path / "notes", bare.parent) as simple:
            await simple.ok("git.clone", url=str(bare))
            await simple.ok("file.write", path="a", content="1")
            await simple.ok("git.add", files=["a"])
            yield simple


async def test_a_push_that_could_not_be_noted_keeps_its_result_and_is_made_once(simple: Simple, bare: Path) -> None:
    head = (await simple.ok("git.commit", message="mine"))["head"]
    gate = Gate(bare)
    pushing = asyncio.create_task(simple.call("git.push", how=ONCE))
    await until(gate.arrived.exists, "the push is on its way")
    # From here on nothing can be noted, as with a full disk.
    away = simple.directory.rename(simple.directory.with_name("away"))
    gate.opened.touch()
    pushed = await pushing
    assert not pushed.is_error, pushed.content
    assert pushed.content["head"] == head == git("rev-parse", "main", cwd=bare)
    away.rename(simple.directory)
    assert (await simple.call("git.push", how=ONCE)).content == pushed.content
    assert gate.pushes == 1


async def test_the_inventory_catches_up_with_a_write_that_could_not_be_noted(simple: Simple, bare: Path) -> None:
    workspaces, inventory = simple.service.workspaces, simple.service.workspaces.inventory
    before = await inventory.get(WORKSPACE)
    assert before is not None
    away = simple.directory.rename(simple.directory.with_name("away"))
    assert not (await simple.call("git.commit", message="mine")).is_error
    away.rename(simple.directory)
    await workspaces.catch_up()
    after = await inventory.get(WORKSPACE)
    assert after is not None
    assert after.version > before.version
    surveyed = await workspaces.surveyed(after)
    assert surveyed.state is not None
    assert surveyed.state.head == (await simple.ok("git.status"))["head"]
    await workspaces.catch_up()
    assert (await inventory.get(WORKSPACE)) == surveyed


@pytest.mark.parametrize(("operation", "has_begun"), [("git.commit", True), ("git.clone", False)])
async def test_a_sandbox_that_dies_under_a_write_leaves_it_unknown_unless_only_a_clone_is_lost(
    tmp_path: Path, bare: Path, operation: str, has_begun: bool
) -> None:
    rules = RemoteRules((bare.parent.resolve(),))
    with running_fake_e2b(tmp_path / "e2b") as cloud:
        provider = provider_on(cloud)
        sandbox = await provider.create("sandbox1")
        await perform("git.clone", sandbox, Clone(url=str(bare)), Call(), rules)
        await asyncio.to_thread(cloud.trouble, deaths=1)
        arguments = Clone(url=str(bare)) if operation == "git.clone" else Commit(message="mine")
        with pytest.raises(ServiceError) as caught:
            await perform(operation, sandbox, arguments, ONCE, rules)
        assert (caught.value.code, caught.value.has_begun) == (Code.SANDBOX_UNAVAILABLE, has_begun)


async def test_a_sandbox_that_has_expired_takes_its_workspace_along_and_no_answers(tmp_path: Path, bare: Path) -> None:
    with running_fake_e2b(tmp_path / "e2b") as cloud:
        provider = provider_on(cloud)
        async with simple_service(provider, tmp_path / "notes", bare.parent) as simple:
            await simple.ok("git.clone", url=str(bare))
            made = await simple.call("git.create_branch", how=ONCE, name="topic")
            before = await simple.notes.get(WORKSPACE)
            [sandbox] = await asyncio.to_thread(cloud.sandboxes)
            await asyncio.to_thread(cloud.kill, sandbox["sandboxID"])

            async def is_unknown() -> bool:
                return (await simple.call("git.status")).code == "unknown_workspace"

            await until_async(is_unknown, "the service has seen it")
            await until(lambda: not simple.notes.holds_something(WORKSPACE), "nor is it listed any more")
            assert await simple.notes.page("", "", None, 9) == []
            assert (await simple.call("git.create_branch", how=ONCE, name="topic")).content == made.content
            await simple.ok("git.clone", url=str(bare))
            after = await simple.notes.get(WORKSPACE)
            assert before is not None
            assert after is not None
            assert after.version > before.version
            assert (await simple.ok("git.branch"))["current"] == "main"
