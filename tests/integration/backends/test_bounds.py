"""What one caller can make a service hold in memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from backends.common import inventory_surface
from backends.common.authority import InternalToken
from backends.common.carrying import Manifest
from backends.common.dispatch import Dispatcher
from backends.common.git_operations import LISTING_LIMIT
from backends.common.inventory import State
from backends.common.inventory_surface import CARRIED_AT_ONCE, inventory_routes
from backends.common.local_provider import LocalProvider
from tests.support.services import TOKEN, bare_repository, sandbox_home
from tests.support.simple_service import Simple, simple_service
from tests.support.waiting import until

MANIFEST = Manifest("file:///etc", State("main", "a" * 40, "d" * 64), 1).text()


@pytest.fixture
async def simple(tmp_path: Path) -> AsyncIterator[Simple]:
    bare = bare_repository(tmp_path)
    with sandbox_home() as home:
        async with simple_service(LocalProvider(home / "service"), tmp_path / "notes", tmp_path) as simple:
            await simple.ok("git.clone", url=str(bare))
            yield simple


async def test_only_a_few_workspaces_are_carried_at_once(simple: Simple, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(simple.service, InternalToken(TOKEN.encode()))
    app = Starlette(routes=inventory_routes(dispatcher))
    headers = {"Crossfade-Auth": TOKEN, "Crossfade-Workspace": MANIFEST}
    coming: list[int] = []
    end = asyncio.Event()

    async def endless(number: int) -> AsyncIterator[bytes]:
        coming.append(number)
        yield b"x"
        await end.wait()

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
        imports = [
            asyncio.create_task(client.put(f"/v1/workspaces/agent/{n}/import", content=endless(n)))
            for n in range(CARRIED_AT_ONCE)
        ]
        await until(lambda: len(coming) == CARRIED_AT_ONCE, "their bodies are read")
        monkeypatch.setattr(inventory_surface, "TURN_S", 0)
        refused = await client.get("/v1/workspaces/agent/task/export")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        # What is small is not held up.
        assert (await client.get("/v1/workspaces/agent/task")).status_code == 200
        end.set()
        assert {(await running).status_code for running in imports} == {403}
        monkeypatch.undo()
        assert (await client.get("/v1/workspaces/agent/task/export")).status_code == 200


async def test_a_list_is_bounded_by_what_its_paths_take(simple: Simple) -> None:
    directory = "/".join(["d" * 200] * 15)
    await simple.ok("file.write", path=f"{directory}/first", content="")
    sandbox = await simple.provider.find(next(iter(await simple.provider.names())))
    assert sandbox is not None
    [tree] = Path(sandbox.global_config).parent.glob("box/clone-*")
    assert len((await simple.ok("file.list", path=directory))["entries"]) == 1
    for number in range(LISTING_LIMIT // len(directory)):
        (tree / directory / f"{number}").touch()
    answer = await simple.call("file.list", path=directory)
    assert answer.code == "too_large"
