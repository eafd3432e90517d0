"""The E2B provider and the unmodified SDK against an E2B-compatible server: the troubles of a cloud."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.approach2.database import Database
from backends.approach2.pool import SandboxPoolManager
from backends.approach2.pool_settings import PoolSettings
from backends.approach2.table import SandboxTable
from backends.common.e2b_provider import E2BProvider, E2BSettings
from backends.common.e2b_settings import e2b_provider
from backends.common.errors import Code, ServiceError
from backends.common.git_command import Command
from backends.common.locks import LocalLocks
from backends.common.workspace import WorkspaceId
from tests.integration.backends.test_contract import ok
from tests.support.fake_e2b import KEY, FakeE2B, running_fake_e2b
from tests.support.git_http import git_over_http
from tests.support.services import (
    SERVICES,
    Service,
    Start,
    Workspace,
    agent_on,
    bare_repository,
    git,
    started_service,
)
from tests.support.waiting import until, until_async

TOKEN = "ghp_canary0123456789"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeE2B]:
    """A server of this test alone."""
    with running_fake_e2b(tmp_path / "e2b") as server:
        yield server


@pytest.fixture
def provider(cloud: FakeE2B) -> E2BProvider:
    return E2BProvider(settings(cloud))


def settings(cloud: FakeE2B, **more: Any) -> E2BSettings:
    return E2BSettings("one", KEY, **{"owner": "tests", "api_url": cloud.url, "sandbox_url": cloud.url, **more})


@asynccontextmanager
async def served(name: str, cloud: FakeE2B, tmp_path: Path, **more: str) -> AsyncIterator[Service]:
    start = Start(env={**cloud.env, **more}, local_remotes=[tmp_path])
    async with started_service(name, tmp_path / f"data-{name}", cloud.root, start) as service:
        yield service


async def said_by(*argv: str) -> bytes:
    return (await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False)).stdout


def run(*argv: str, stdin: bytes = b"") -> Command:
    return Command(argv, stdin=stdin, is_outside=True)


# --- the provider --------------------------------------------------------------------------------------------------


async def test_a_sandbox_is_made_found_and_removed(provider: E2BProvider, cloud: FakeE2B) -> None:
    made = await provider.create("sandbox1", {"agent": "ada", "task": "one"})
    [listed] = cloud.sandboxes()
    assert listed["metadata"] == {
        "agent": "ada",
        "task": "one",
        "crossfade_service": "tests-one",
        "crossfade_name": "sandbox1",
    }
    assert await made.is_healthy()
    assert not made.has_repository
    assert await provider.names() == ["sandbox1"]
    # As another run of the service finds it.
    again = await E2BProvider(settings(cloud)).find("sandbox1")
    assert again is not None
    assert again.sandbox_id == made.sandbox_id
    assert await E2BProvider(settings(cloud)).find("sandbox2") is None
    await provider.destroy("sandbox1")
    await provider.destroy("sandbox1")
    assert cloud.sandboxes() == []


async def test_sandboxes_of_others_are_not_seen(provider: E2BProvider, cloud: FakeE2B) -> None:
    other = E2BProvider(E2BSettings("two", KEY, owner="tests", api_url=cloud.url, sandbox_url=cloud.url))
    await other.create("sandbox1")
    assert await provider.names() == []
    assert await provider.find("sandbox1") is None
    await provider.destroy("sandbox1")
    assert len(cloud.sandboxes()) == 1


async def test_every_page_of_the_list_is_read(provider: E2BProvider) -> None:
    names = [f"sandbox{number:03}" for number in range(120)]
    await asyncio.gather(*(provider.create(name) for name in names))
    assert await provider.names() == names


async def test_a_lost_answer_makes_no_second_sandbox(provider: E2BProvider, cloud: FakeE2B) -> None:
    cloud.trouble(lost_creations=2)
    await provider.create("sandbox1")
    assert len(cloud.sandboxes()) == 1


async def test_a_creation_that_is_cancelled_leaves_nothing(provider: E2BProvider, cloud: FakeE2B) -> None:
    cloud.trouble(create_s=0.2)
    creating = asyncio.create_task(provider.create("sandbox1"))
    await until_async(lambda: asyncio.to_thread(cloud.sandboxes), "it is being made")
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert cloud.sandboxes() == []


async def test_a_rate_limit_is_waited_for(provider: E2BProvider, cloud: FakeE2B) -> None:
    cloud.trouble(creations_per_s=4)
    await asyncio.gather(*(provider.create(f"sandbox{number}") for number in range(8)))
    assert len(cloud.sandboxes()) == 8


async def test_a_key_that_is_refused_and_a_cloud_that_is_not_there(cloud: FakeE2B) -> None:
    nowhere = E2BProvider(
        E2BSettings("x", KEY, owner="tests", api_url="http://127.0.0.1:1", sandbox_url="http://127.0.0.1:1")
    )
    with pytest.raises(ServiceError) as caught:
        await nowhere.create("sandbox1")
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert KEY not in caught.value.message
    assert KEY not in repr(settings(cloud))


async def test_what_a_command_says_comes_back_byte_for_byte(provider: E2BProvider) -> None:
    sandbox = await provider.create("sandbox1")
    content = bytes(range(256)) * 300
    done = await sandbox.run(run("cat", stdin=content), keep_bytes=1 << 20)
    assert (done.code, done.stdout, done.truncated) == (0, content, False)
    done = await sandbox.run(run("cat", stdin=content), keep_bytes=1000)
    assert (done.stdout, done.truncated) == (content[:1000], True)
    done = await sandbox.run(run("sh", "-c", "echo said >&2; exit 7"), keep_bytes=10)
    assert (done.code, done.stderr) == (7, b"said\n")
    odd = "a 'b' \"c\" $HOME `id` \n*"
    done = await sandbox.run(run("printf", "%s", odd), keep_bytes=1000)
    assert done.stdout.decode() == odd


async def test_a_command_that_is_cancelled_has_ended_when_the_caller_knows(
    provider: E2BProvider, tmp_path: Path
) -> None:
    sandbox = await provider.create("sandbox1")
    mark = tmp_path / "mark"
    script = f"touch {mark}; (sleep 300; echo never) & exec sleep 301"
    running = asyncio.create_task(sandbox.run(run("sh", "-c", script), keep_bytes=10))
    await until_async(lambda: asyncio.to_thread(mark.exists), "it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await said_by("pgrep", "-fx", "sleep 30[01]") == b""


async def test_a_command_that_is_cancelled_before_it_began_never_runs(
    provider: E2BProvider, cloud: FakeE2B, tmp_path: Path
) -> None:
    """The request is on its way, and whoever ends it finds nothing to end yet."""
    sandbox = await provider.create("sandbox1")
    mark = tmp_path / "mark"
    cloud.trouble(held_starts=1)
    before = cloud.state()["started"]
    running = asyncio.create_task(sandbox.run(run("sh", "-c", f"touch {mark}; sleep 302"), keep_bytes=10))
    await until(lambda: cloud.state()["held_starts"] == 0, "it is about to begin")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    cloud.let_go()
    # It, and what ended it.
    await until(lambda: cloud.state()["started"] == before + 2, "it began")
    await until(lambda: cloud.state()["running"] == 0, "nothing runs")
    assert not mark.exists()


async def test_a_command_whose_connection_breaks_has_ended_when_the_caller_knows(
    provider: E2BProvider, cloud: FakeE2B, tmp_path: Path
) -> None:
    sandbox = await provider.create("sandbox1")
    mark = tmp_path / "mark"
    running = asyncio.create_task(sandbox.run(run("sh", "-c", f"echo $$ >{mark}; exec sleep 303"), keep_bytes=10))
    await until(lambda: mark.exists() and mark.read_text(), "it runs")
    cloud.cut()
    with pytest.raises(ServiceError) as caught:
        await running
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert not await asyncio.to_thread(Path("/proc", mark.read_text().strip()).exists)
    assert (await sandbox.run(run("true"), keep_bytes=0)).code == 0


async def test_odd_names_are_files_like_any_other(provider: E2BProvider, tmp_path: Path) -> None:
    sandbox = await provider.create("sandbox1")
    await sandbox.run(run("mkdir", "-p", "clone-1/.git"), keep_bytes=0)
    await sandbox.run(run("touch", "clone-1/.git/config"), keep_bytes=0)
    await sandbox.settle_clone("clone-1", "https://git.example/a.git")
    names = ("-x/y", "--help/y", "a/-b/c", "a\nb/c", "-r", "(/x", "!/x", "=/x", " lead/y", "*/y", "$HOME/y", "~/z", "-")

    async def comes_and_goes(name: str) -> None:
        await sandbox.write_file(name, name.encode())
        assert (await sandbox.read_file(name, 100))[0] == name.encode()
        directory = name.rpartition("/")[0]
        assert name in [entry.path for entry in await sandbox.list_directory(directory)]
        await sandbox.delete_file(name)
        with pytest.raises(ServiceError) as caught:
            await sandbox.read_file(name, 100)
        assert caught.value.code is Code.NOT_FOUND

    await asyncio.gather(*map(comes_and_goes, names))


async def test_a_sandbox_that_dies_under_a_command_is_told(provider: E2BProvider, cloud: FakeE2B) -> None:
    sandbox = await provider.create("sandbox1")
    cloud.trouble(deaths=1)
    with pytest.raises(ServiceError) as caught:
        await sandbox.run(run("sleep", "5"), keep_bytes=10)
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    with pytest.raises(ServiceError) as caught:
        await sandbox.run(run("true"), keep_bytes=10)
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert not await sandbox.is_healthy()


async def test_one_that_dies_while_it_is_looked_for_is_not_there(provider: E2BProvider, cloud: FakeE2B) -> None:
    """As for an instance that starts while sandboxes die: it goes on starting."""
    await provider.create("sandbox1")
    cloud.trouble(held_starts=2)
    finding = asyncio.create_task(E2BProvider(settings(cloud)).find("sandbox1"))
    await until(lambda: cloud.state()["held_starts"] == 1, "it is set up")
    cloud.let_go()
    await until(lambda: cloud.state()["held_starts"] == 0, "it is looked at")
    cloud.kill(cloud.sandboxes()[0]["sandboxID"])
    cloud.let_go()
    assert await finding is None


async def test_the_life_of_a_sandbox_is_prolonged_by_its_use(cloud: FakeE2B) -> None:
    provider = E2BProvider(settings(cloud, life_s=60))
    sandbox = await provider.create("sandbox1")
    before = cloud.sandboxes()[0]["endAt"]
    assert await sandbox.is_healthy()
    assert cloud.sandboxes()[0]["endAt"] > before


async def test_two_deployments_in_one_account_leave_each_other_alone(cloud: FakeE2B) -> None:
    here, there = (E2BProvider(settings(cloud, owner=None)) for _ in range(2))
    here.belong_to("aaaa")
    there.belong_to("bbbb")
    await here.create("sandbox1")
    assert await there.names() == []
    assert await there.find("sandbox1") is None
    await there.destroy("sandbox1")
    assert await here.names() == ["sandbox1"]


async def test_a_later_creation_of_the_same_name_is_another_sandbox(provider: E2BProvider, cloud: FakeE2B) -> None:
    """The cloud may answer a repeated key with a sandbox that is gone."""
    first = await provider.create("sandbox1")
    second = await provider.create("sandbox1")
    assert first.sandbox_id != second.sandbox_id


async def test_rules_for_the_egress_proxy_reach_the_cloud(cloud: FakeE2B) -> None:
    header = {"Authorization": "Basic ${e2b.secrets.gh}"}
    network = {"allow_out": ["github.com"], "rules": {"github.com": [{"transform": {"headers": header}}]}}
    provider = e2b_provider("approach1", {**cloud.env, "CROSSFADE_E2B_NETWORK": json.dumps(network)})
    provider.belong_to("aaaa")
    await provider.create("sandbox1")
    sent = cloud.state()["last_creation"]["network"]
    assert sent["rules"]["github.com"][0]["transform"]["headers"] == header
    assert "github.com" in json.dumps(sent)


# --- the pool ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pool(provider: E2BProvider, tmp_path: Path) -> AsyncIterator[SandboxPoolManager]:
    """Warm, and as fast as the server."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'table.db'}")
    await database.start()
    pool = SandboxPoolManager(provider, SandboxTable(database), LocalLocks(), PoolSettings(creations_per_s=1000))
    await pool.start()
    await pool.wait_warm()
    yield pool
    await pool.aclose()
    await database.aclose()


async def test_what_is_warm_is_kept_alive_and_what_has_died_is_replaced(
    pool: SandboxPoolManager, cloud: FakeE2B
) -> None:
    ends = {listed["sandboxID"]: listed["endAt"] for listed in cloud.sandboxes()}
    expired, *living = ends
    cloud.expire(expired)
    await pool.look_after()
    after = {listed["sandboxID"]: listed["endAt"] for listed in cloud.sandboxes()}
    assert expired not in after
    assert all(after[name] > ends[name] for name in living)
    await until(lambda: pool.warm == len(cloud.sandboxes()) == 3, "it is made up for")


async def test_first_clones_beyond_what_is_warm_do_not_wait_for_each_other(
    pool: SandboxPoolManager, cloud: FakeE2B
) -> None:
    cloud.trouble(create_s=300)
    workspaces = [WorkspaceId("agent", f"task-{number}") for number in range(8)]
    given = [asyncio.create_task(pool.checkout(workspace)) for workspace in workspaces]
    # None of the five has been made when the last of them is being made.
    await until_async(lambda: asyncio.to_thread(lambda: len(cloud.sandboxes()) >= 8), "all are being made")
    cloud.trouble(create_s=0)
    await asyncio.gather(*given)
    labels = [listed["metadata"] for listed in cloud.sandboxes()]
    # Those that were made for a workspace say so; what was warm was made for nobody.
    assert sum("agent" in label for label in labels) == 5
    assert {label["task"] for label in labels if "agent" in label} <= {workspace.task_id for workspace in workspaces}


# --- the services --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
async def test_a_restart_finds_workspaces_again(name: str, cloud: FakeE2B, tmp_path: Path) -> None:
    bare = bare_repository(tmp_path)
    async with served(name, cloud, tmp_path) as service, agent_on("rest", service.url) as agent:
        await ok(agent, "git.clone", url=str(bare))
        await ok(agent, "file.write", path="mine", content="1")
    async with served(name, cloud, tmp_path) as service, agent_on("rest", service.url) as agent:
        assert (await ok(agent, "git.status"))["untracked"] == ["mine"]
        assert not (await ok(agent, "git.pull"))["updated"]


@pytest.mark.parametrize("name", SERVICES)
async def test_a_workspace_whose_sandbox_is_gone_is_unknown_and_can_be_cloned_again(
    name: str, cloud: FakeE2B, tmp_path: Path
) -> None:
    bare = bare_repository(tmp_path)
    async with (
        served(name, cloud, tmp_path, CROSSFADE_E2B_LIFE_S="600") as service,
        agent_on("rest", service.url) as agent,
    ):
        await ok(agent, "git.clone", url=str(bare))
        for listed in cloud.sandboxes():
            cloud.expire(listed["sandboxID"])

        async def is_told() -> bool:
            answer = await agent.call("git.status")
            assert answer.code in ("sandbox_unavailable", "unknown_workspace")
            return answer.code == "unknown_workspace"

        await until_async(is_told, "the workspace is known to be gone")
        await ok(agent, "git.clone", url=str(bare))
        assert (await ok(agent, "git.status"))["clean"]


async def test_a_warm_pool_spares_the_first_clone_the_creation(cloud: FakeE2B, tmp_path: Path) -> None:
    """By how much, `bench/pool.py` measures."""
    bare = bare_repository(tmp_path)
    workspace = Workspace(f"agent-{uuid.uuid4().hex[:8]}")
    async with (
        served("approach1", cloud, tmp_path) as simple,
        served("approach2", cloud, tmp_path) as pooled,
        agent_on("rest", simple.url, workspace) as on_simple,
        agent_on("rest", pooled.url, workspace) as on_pooled,
    ):
        there = len(cloud.sandboxes())
        cloud.trouble(create_s=300)
        waiting = asyncio.create_task(ok(on_simple, "git.clone", url=str(bare)))
        await until(lambda: len(cloud.sandboxes()) > there, "it is being made")
        # This one is answered although nothing can be made; the other one is not.
        await ok(on_pooled, "git.clone", url=str(bare))
        assert not waiting.done()
        cloud.trouble(create_s=0)
        await waiting


@pytest.mark.parametrize("name", SERVICES)
async def test_a_deadline_ends_the_command_in_the_sandbox(name: str, cloud: FakeE2B, tmp_path: Path) -> None:
    more = {"CROSSFADE_ALLOWED_REMOTES": "127.0.0.1", "CROSSFADE_LONGEST_OPERATION_S": "3"}
    with git_over_http(tmp_path) as remote:
        async with served(name, cloud, tmp_path, **more) as service, agent_on("rest", service.url) as agent:
            answer = await agent.call("git.clone", url=f"{remote.url}/hang/project.git")
            assert answer.code == "deadline"
            assert remote.arrived.is_set()
            assert (await agent.call("git.add", files=["a"])).code == "unknown_workspace"
            assert cloud.state()["running"] == 0


@pytest.mark.parametrize("name", SERVICES)
async def test_a_token_is_nowhere_in_a_sandbox(name: str, cloud: FakeE2B, tmp_path: Path) -> None:
    bare = bare_repository(tmp_path)
    async with served(name, cloud, tmp_path) as service, agent_on("rest", service.url) as agent:
        await ok(agent, "git.clone", url=str(bare), token=TOKEN)
        await ok(agent, "git.pull", token=TOKEN)
        answer = await agent.call("git.clone", url="http://127.0.0.1:1/x.git", token=TOKEN)
        assert answer.is_error
        assert TOKEN not in str(answer.content)
        assert await said_by("grep", "-rl", TOKEN, str(cloud.root)) == b""
        log = service.log
    assert TOKEN not in log.read_text()
    assert git("rev-parse", "main", cwd=bare)
