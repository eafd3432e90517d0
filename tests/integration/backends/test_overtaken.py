"""First clones that are overtaken: whoever comes later keeps the workspace, whatever becomes of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis as redis_client

from tests.integration.backends.test_contract import ok
from tests.integration.backends.test_processes import processes_with
from tests.support.fake_e2b import running_fake_e2b
from tests.support.git_http import git_over_http
from tests.support.redis_process import running_redis
from tests.support.services import Service, Start, Workspace, agent_on, bare_repository, sandbox_home, started_service
from tests.support.waiting import until


@dataclass
class Pair:
    """Two instances of approach 2.

    Attributes:
        here: One.
        there: The other.
        redis_url: Of their locks.
    """

    here: Service
    there: Service
    redis_url: str

    def lose_locks(self) -> None:
        """As if they had expired: a paused instance, a Redis that lost its data."""
        with redis_client.Redis.from_url(self.redis_url) as redis:
            for key in redis.scan_iter("cf:lock:*"):
                redis.delete(key)


@pytest.fixture(params=["local", "e2b"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis())
        env = {
            "CROSSFADE_REDIS_URL": redis.url,
            "CROSSFADE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}",
            "CROSSFADE_ALLOWED_REMOTES": "127.0.0.1",
        }
        if request.param == "e2b":
            cloud = stack.enter_context(running_fake_e2b(tmp_path / "e2b"))
            env |= cloud.env
            home = cloud.root
        else:
            home = stack.enter_context(sandbox_home())
        start = Start(env=env, local_remotes=[tmp_path])
        here, there = [
            await stack.enter_async_context(started_service("approach2", tmp_path / f"data-{n}", home, start))
            for n in range(2)
        ]
        yield Pair(here, there, redis.url)


async def test_a_first_clone_that_was_overtaken_leaves_the_workspace_to_the_later_one(
    pair: Pair, tmp_path: Path
) -> None:
    bare = bare_repository(tmp_path)
    with git_over_http(tmp_path) as remote:
        async with agent_on("rest", pair.here.url) as here, agent_on("rest", pair.there.url) as there:
            first = asyncio.create_task(here.call("git.clone", url=f"{remote.url}/slow/project.git"))
            await until(remote.arrived.is_set, "the first clone is on its way")
            pair.lose_locks()
            second = asyncio.create_task(there.call("git.clone", url=str(bare)))
            await until(lambda: processes_with("flock\0-w\0"), "the second waits for the end of the first's command")
            remote.released.set()
            assert (await first).code == "lock_lost"
            assert not (await second).is_error
            await ok(there, "file.write", path="work", content="precious")
            assert (await ok(there, "file.read", path="work"))["content"] == "precious"


async def test_a_clone_that_is_refused_does_no_harm_to_the_clone_of_another_instance(
    pair: Pair, tmp_path: Path
) -> None:
    bare = bare_repository(tmp_path)
    async with agent_on("rest", pair.here.url) as here, agent_on("rest", pair.there.url) as there:
        await ok(here, "git.clone", url=str(bare))
        await ok(here, "file.write", path="work", content="precious")
        assert (await there.call("git.clone", url="/etc")).code == "remote_refused"
        assert (await there.call("git.clone", url=str(bare), branch="no-such")).code == "not_found"
        assert (await ok(here, "file.read", path="work"))["content"] == "precious"
        async with agent_on("rest", pair.there.url, Workspace(task="other")) as other:
            assert (await other.call("git.clone", url="/etc")).code == "remote_refused"
            assert (await other.call("git.status")).code == "unknown_workspace"
            await ok(other, "git.clone", url=str(bare))
