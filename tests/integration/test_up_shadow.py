"""Both real services behind `crossfade up`, every read mirrored: over MCP as agents speak it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.up import ROOT, Up, running_up
from tests.support.waiting import until_async

READS: dict[str, dict[str, Any]] = {
    "git.status": {},
    "git.branch": {},
    "git.log": {"max_count": 5},
    "git.diff": {},
    "git.show": {"revision": "HEAD"},
    "file.list": {},
    "file.read": {"path": "note.txt"},
}
SHARED = {"agent_id": "ada", "task_id": "shared"}
ALONE = {"agent_id": "ada", "task_id": "alone"}
Json = dict[str, Any]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that users without privileges can reach into: as root each sandbox is one of them."""
    with tempfile.TemporaryDirectory(prefix="crossfade-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def remote(place: Path) -> Path:
    """A repository with one commit."""
    bare, work = place / "remotes" / "hello.git", place / "work"
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in (
        ("init", "--quiet", "--bare", "-b", "main", str(bare)),
        ("clone", "--quiet", str(bare), str(work)),
        ("-C", str(work), *author, "commit", "--quiet", "--allow-empty", "-m", "First"),
        ("-C", str(work), "push", "--quiet", "origin", "HEAD:main"),
    ):
        subprocess.run(["git", *command], check=True, capture_output=True)
    return bare


@asynccontextmanager
async def shadowing(place: Path, remote: Path, lag_s: str) -> AsyncIterator[Up]:
    env = {
        "CROSSFADE_ALLOWED_LOCAL_REMOTES": str(remote.parent),
        "CROSSFADE_SANDBOX_ROOT": str(place / "sandboxes"),
        "CROSSFADE_SHADOW__LAG_S": lag_s,
    }
    (place / "sandboxes").mkdir(mode=0o711)
    # A copy: a test edits it.
    migration = place / "migration.yaml"
    migration.write_text((ROOT / "config" / "migration.yaml").read_text())
    async with running_up(place / "data", migration, env=env) as up:
        yield up


class Agents:
    """An agent that speaks MCP, and an operator."""

    def __init__(self, up: Up, mcp: Client, http: httpx.AsyncClient) -> None:
        self._up = up
        self._mcp = mcp
        self._http = http

    async def call(self, operation: str, workspace: Json, **arguments: Any) -> Json:
        result = await self._mcp.call_tool(operation.replace(".", "_"), {**workspace, **arguments})
        assert not result.is_error, result.structured_content
        content: Json = result.structured_content or {}
        return content

    async def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        fields = {"Authorization": f"Bearer {self._up.token}"}
        answer = await self._http.request(method, self._up.runtime["control"] + path, json=body, headers=fields)
        assert answer.status_code == 200, answer.text
        content: Json = answer.json()
        return content

    async def prepare(self, remote: Path) -> None:
        """Two workspaces on old, one of them on new too; every read is mirrored."""
        for workspace in (SHARED, ALONE):
            await self.call("git.clone", workspace, url=str(remote))
            await self.call("file.write", workspace, path="note.txt", content="of both\n")
        fields = {"Crossfade-Auth": (self._up.data_dir / "internal.token").read_text().strip()}
        where = "/v1/workspaces/ada/shared"
        bundle = await self._http.get(f"{self._up.runtime['old']}{where}/export", headers=fields)
        fields["Crossfade-Workspace"] = bundle.headers["crossfade-workspace"]
        taken = await self._http.put(f"{self._up.runtime['new']}{where}/import", content=bundle.content, headers=fields)
        assert taken.is_success, taken.text
        body = {"stage": "shadow_read", "mirror_percent": 100, "reason": "test"}
        await self.ask("PATCH", "/v1/groups/workspace", body)
        await until_async(self.decides_so, "every worker mirrors")

    async def decides_so(self) -> bool:
        status = await self.ask("GET", "/v1/status")
        return {worker["epoch"] for worker in status["workers"]} == {status["epoch"]}

    async def change_on_new(self, content: str) -> None:
        """Past the gateway."""
        fields = {"X-Agent-Id": "ada", "X-Task-Id": "shared"}
        url = f"{self._up.runtime['new']}/v1/file/write"
        changed = await self._http.post(url, json={"path": "note.txt", "content": content}, headers=fields)
        assert changed.is_success, changed.text

    async def counted(self, operation: str) -> Json:
        """What became of an operation's mirrored reads, without zeros."""
        found = (await self.ask("GET", "/v1/status"))["operations"][operation]["comparisons"]
        return {name: count for name, count in found.items() if count}

    async def figure(self, target: str) -> Json:
        items = (await self.ask("GET", "/v1/consistency"))["items"]
        return next(item for item in items if item["target"] == target)


@asynccontextmanager
async def agents(up: Up) -> AsyncIterator[Agents]:
    async with (
        httpx.AsyncClient(timeout=60, trust_env=False) as http,
        httpx2.AsyncClient(timeout=60, trust_env=False) as mcp_http,
        Client(streamable_http_client(f"{up.runtime['gateway']}/mcp", http_client=mcp_http), mode="2026-07-28") as mcp,
    ):
        yield Agents(up, mcp, http)


def change_rules_of_file_read(file: Path) -> None:
    before, name, rest = file.read_text().partition("  file.read:")
    other = "compare: {parts: {$.size: {abs_tolerance: 1}}}"
    assert "compare: *by_workspace" in rest
    file.write_text(before + name + rest.replace("compare: *by_workspace", other, 1))


async def test_every_read_of_both_services_agrees_over_mcp_and_a_changed_field_is_found(
    place: Path, remote: Path
) -> None:
    async with shadowing(place, remote, "0.2") as up, agents(up) as ada:
        await ada.prepare(remote)
        for operation, arguments in READS.items():
            for _ in range(3):
                await ada.call(operation, SHARED, **arguments)

        async def all_agree() -> bool:
            return all([await ada.counted(operation) == {"match": 3} for operation in READS])

        await until_async(all_agree, "all agree")
        figure = await ada.figure("group workspace")
        assert (figure["matches"], figure["mismatches"], figure["read_agreement"]) == (21, 0, 1.0)

        # What new does not know says nothing about how it answers.
        for operation, arguments in READS.items():
            await ada.call(operation, ALONE, **arguments)

        async def all_apart() -> bool:
            return all([await ada.counted(operation) == {"match": 3, "incomparable": 1} for operation in READS])

        await until_async(all_apart, "all are set apart")
        figure = await ada.figure("group workspace")
        assert (figure["matches"], figure["incomparable"]) == (21, {"unknown_workspace": 7})

        await ada.change_on_new("OF BOTH\n")
        await ada.call("file.read", SHARED, path="note.txt")

        async def is_mismatch() -> bool:
            groups = (await ada.ask("GET", "/v1/comparisons?operation=file.read"))["items"]
            return bool(groups) and bool(groups[0]["mismatch"])

        await until_async(is_mismatch, "it is a mismatch")
        [group] = (await ada.ask("GET", "/v1/comparisons"))["items"]
        assert (group["operation"], group["suspected"], group["mismatch"]) == ("file.read", 1, 1)
        assert {difference["path"].rpartition(".")[2] for difference in group["differences"]} == {"content"}

        async def is_counted() -> bool:
            return bool((await ada.figure("operation file.read"))["mismatches"] == 1)

        await until_async(is_counted, "it is counted")

        # Other rules for one operation begin its figure anew, and leave the others'.
        before = await ada.figure("operation git.status")
        change_rules_of_file_read(Path(up.runtime["migration_file"]))
        os.kill(up.process.pid, signal.SIGHUP)

        async def has_begun_anew() -> bool:
            return bool((await ada.figure("operation file.read"))["matches"] == 0)

        await until_async(has_begun_anew, "the figure begins anew")
        anew = await ada.figure("operation file.read")
        assert (anew["mismatches"], anew["read_agreement"], anew["since"]) == (0, None, None)
        assert await ada.figure("operation git.status") == before


async def test_what_a_killed_worker_had_suspected_is_suspected_no_more(place: Path, remote: Path) -> None:
    async with shadowing(place, remote, "3600") as up, agents(up) as ada:
        await ada.prepare(remote)
        await ada.change_on_new("OF BOTH\n")
        await ada.call("file.read", SHARED, path="note.txt")

        async def is_suspected() -> bool:
            return await ada.counted("file.read") == {"suspected": 1}

        await until_async(is_suspected, "it is suspected")
        for name in ("gateway-0", "gateway-1"):
            os.kill(up.pids[name], signal.SIGKILL)

        async def is_gone() -> bool:
            return await ada.counted("file.read") == {}

        await until_async(is_gone, "nobody will read it again", 60)
