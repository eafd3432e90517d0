"""Both services, once for all tests of a run; every test has a workspace and repositories of its own."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.fake_e2b import FakeE2B, running_fake_e2b
from tests.support.postgres_process import running_postgres
from tests.support.redis_process import running_redis
from tests.support.services import (
    SERVICES,
    SURFACES,
    TOKEN,
    Agent,
    RestAgent,
    Service,
    Start,
    Workspace,
    agent_on,
    bare_repository,
    end,
    launch,
    sandbox_home,
    wait_ready,
)
from tests.support.up import ROOT, Up, start


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """Both, by name."""
    start = Start(local_remotes=[tmp_path_factory.getbasetemp()])
    with sandbox_home() as home:
        running = {name: launch(name, tmp_path_factory.mktemp(name), home, start) for name in SERVICES}
        try:
            for service in running.values():
                asyncio.run(wait_ready(service))
            yield running
        finally:
            for service in running.values():
                end(service)


@pytest.fixture(scope="session")
def e2b(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeE2B]:
    """An E2B-compatible server."""
    with running_fake_e2b(tmp_path_factory.mktemp("e2b")) as server:
        yield server


@pytest.fixture(scope="session")
def services_on_e2b(tmp_path_factory: pytest.TempPathFactory, e2b: FakeE2B) -> Iterator[dict[str, Service]]:
    """Both services with sandboxes of that server, by name."""
    start = Start(env=e2b.env, local_remotes=[tmp_path_factory.getbasetemp()])
    running = {name: launch(name, tmp_path_factory.mktemp(f"{name}-e2b"), e2b.root, start) for name in SERVICES}
    try:
        for service in running.values():
            asyncio.run(wait_ready(service))
        yield running
    finally:
        for service in running.values():
            end(service)


@pytest.fixture(scope="session")
def services_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """Approach 2 as several instances of it would be set up: PostgreSQL, and locks in Redis."""
    with running_postgres() as server, running_redis() as redis, sandbox_home() as home:
        env = {"CROSSFADE_DATABASE_URL": server.new_database(), "CROSSFADE_REDIS_URL": redis.url}
        start = Start(env=env, local_remotes=[tmp_path_factory.getbasetemp()])
        service = launch("approach2", tmp_path_factory.mktemp("approach2-pg"), home, start)
        try:
            asyncio.run(wait_ready(service))
            yield {"approach2": service}
        finally:
            end(service)


@pytest.fixture(scope="session")
def replicas_on_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Two instances of approach 2 on one database, one Redis and one directory of sandboxes."""
    with sandbox_home() as home, running_replicas(tmp_path_factory, home, {}) as replicas:
        yield replicas


@pytest.fixture(scope="session")
def replicas_on_e2b(tmp_path_factory: pytest.TempPathFactory, e2b: FakeE2B) -> Iterator[list[Service]]:
    """Likewise, with sandboxes of the E2B-compatible server."""
    with running_replicas(tmp_path_factory, e2b.root, e2b.env) as replicas:
        yield replicas


@contextmanager
def running_replicas(
    tmp_path_factory: pytest.TempPathFactory, sandboxes: Path, env: Mapping[str, str]
) -> Iterator[list[Service]]:
    """Two, one after the other: the second finds what the first has made."""
    directory = tmp_path_factory.mktemp("replicas")
    with running_redis() as redis:
        shared = {
            "CROSSFADE_REDIS_URL": redis.url,
            "CROSSFADE_DATABASE_URL": f"sqlite+aiosqlite:///{directory / 'shared.db'}",
        }
        start = Start(env={**env, **shared}, local_remotes=[tmp_path_factory.getbasetemp()])
        running: list[Service] = []
        try:
            for number in range(2):
                running.append(launch("approach2", directory / f"data-{number}", sandboxes, start))
                asyncio.run(wait_ready(running[-1]))
            yield running
        finally:
            for service in running:
                end(service)


@pytest.fixture(scope="session")
def services_on_gateway(
    tmp_path_factory: pytest.TempPathFactory, services: dict[str, Service]
) -> Iterator[dict[str, Service]]:
    """Both services as clients of a gateway see them, by the name of the one that answers."""
    shipped = (ROOT / "config" / "migration.yaml").read_text()
    running: dict[str, Up] = {}
    try:
        for name, other in (SERVICES, SERVICES[::-1]):
            addresses = shipped.replace("bundled:approach1", services[name].url)
            file = tmp_path_factory.mktemp(f"gateway-{name}") / "migration.yaml"
            file.write_text(addresses.replace("bundled:approach2", services[other].url))
            env = {"CROSSFADE_INTERNAL_TOKEN": TOKEN}
            running[name] = start(file.parent / "data", file, "--workers", "1", env=env)
        for up in running.values():
            asyncio.run(up.ready())
        yield {name: replace(services[name], url=up.runtime["gateway"]) for name, up in running.items()}
    finally:
        for up in running.values():
            up.process.terminate()
            up.process.wait(60)


PLACES = (*SERVICES, *(f"{name}/e2b" for name in SERVICES), "approach2/postgres")
"""Each service with each provider of sandboxes and each database. Behind the first two only tests that are marked
`everywhere` are run, and over REST alone: what lies below a surface knows nothing of it. Where
`CROSSFADE_TEST_MATRIX=full`, all are run in all places."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("CROSSFADE_TEST_MATRIX") == "full":
        return
    left_out = [item for item in items if _is_elsewhere(item) and not _goes_everywhere(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_elsewhere(item: pytest.Item) -> bool:
    # The hook is asked about tests of all directories.
    if Path(__file__).parent not in item.path.parents or not isinstance(item, pytest.Function):
        return False
    place = item.callspec.params.get("service") if hasattr(item, "callspec") else None
    return isinstance(place, str) and "/" in place


def _goes_everywhere(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    return item.get_closest_marker("everywhere") is not None and item.callspec.params.get("agent") != "mcp"


@pytest.fixture(params=PLACES)
def service(request: pytest.FixtureRequest) -> Service:
    """One of them."""
    return service_in(request.param, request)


def service_in(place: str, request: pytest.FixtureRequest) -> Service:
    """A service by its name and, behind a `/`, what it runs on."""
    name, _, surroundings = place.partition("/")
    running: dict[str, Service] = request.getfixturevalue(f"services_on_{surroundings}" if surroundings else "services")
    return running[name]


@pytest.fixture
def workspace() -> Workspace:
    """Of this test alone."""
    return Workspace(agent=f"agent-{uuid.uuid4().hex[:12]}")


@pytest.fixture(params=SURFACES)
async def agent(request: pytest.FixtureRequest, service: Service, workspace: Workspace) -> AsyncIterator[Agent]:
    """A client on one of the surfaces, with a workspace in which nothing was cloned."""
    async with agent_on(request.param, service.url, workspace) as agent:
        yield agent


@pytest.fixture
async def rest(service: Service, workspace: Workspace) -> AsyncIterator[RestAgent]:
    """A client over REST alone, for what does not differ by surface."""
    async with httpx.AsyncClient(base_url=service.url, headers=workspace.headers, timeout=120) as client:
        yield RestAgent(client)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A bare repository."""
    return bare_repository(tmp_path)


@pytest.fixture
async def cloned(agent: Agent, bare: Path) -> Agent:
    """A client whose workspace holds a clone."""
    answer = await agent.call("git.clone", url=str(bare))
    assert not answer.is_error, answer.content
    return agent
