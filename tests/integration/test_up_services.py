"""`crossfade up` as it ships: both services, git through the gateway over REST and the official MCP client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from gateway.cli.main import COMMANDS
from tests.support.git_http import git_over_http
from tests.support.up import Up, is_alive, run_to_end, running_up
from tests.support.waiting import until

PARTS = {"supervisor", "redis", "control", "gateway-0", "gateway-1", "approach1", "approach2"}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that users without privileges can reach into: as root each sandbox is one of them."""
    with tempfile.TemporaryDirectory(prefix="crossfade-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def remote(place: Path) -> Path:
    bare = place / "remotes" / "hello.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(bare)], check=True)
    return bare


@pytest.fixture
async def up(place: Path, remote: Path) -> AsyncIterator[Up]:
    env = {"CROSSFADE_ALLOWED_LOCAL_REMOTES": str(remote.parent), "CROSSFADE_SANDBOX_ROOT": str(place / "sandboxes")}
    (place / "sandboxes").mkdir(mode=0o711)
    async with running_up(place / "data", None, env=env) as running:
        yield running


class Agent:
    """Speaks REST for one workspace."""

    def __init__(self, up: Up, agent: str = "ada", task: str = "t") -> None:
        self.http = httpx.Client(
            base_url=up.runtime["gateway"],
            headers={"x-agent-id": agent, "x-task-id": task},
            timeout=60,
            trust_env=False,
        )

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def __call__(self, operation: str, **arguments: object) -> httpx.Response:
        return self.http.post("/v1/" + operation.replace(".", "/"), json=arguments)


@pytest.fixture
def ada(up: Up) -> Iterator[Agent]:
    with Agent(up) as agent:
        yield agent


def tip(remote: Path) -> str:
    """What the remote's main branch points to."""
    command = ["git", "-C", str(remote), "rev-parse", "main"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cli(up: Up, *words: str) -> subprocess.CompletedProcess[str]:
    done = run_to_end([*words, "--data-dir", str(up.data_dir)])
    assert done.returncode == 0, done.stderr
    return done


async def test_git_works_through_the_gateway_and_moves_with_the_share(up: Up, ada: Agent, remote: Path) -> None:
    assert set(up.pids) == PARTS
    assert ada("git.status").json()["code"] == "unknown_workspace"
    assert ada("git.clone", url=str(remote)).json() == {"branch": "main", "head": None}
    assert ada("file.write", path="a.txt", content="hello\n").status_code == 200
    assert ada("git.add", files=["a.txt"]).json() == {"staged": ["a.txt"]}
    head = ada("git.commit", message="first").json()["head"]
    assert ada("git.push").json()["pushed"] is True
    assert tip(remote) == head
    cli(up, "stage", "workspace", "live", "--reason", "test")
    cli(up, "share", "workspace", "100", "--reason", "test")
    await until(lambda: ada("git.status").headers["crossfade-side"] == "new")
    assert ada("git.status").json()["code"] == "unknown_workspace"
    assert ada("git.clone", url=str(remote)).json() == {"branch": "main", "head": head}
    async with (
        httpx2.AsyncClient(headers={"x-agent-id": "ada", "x-task-id": "t"}, timeout=60) as http,
        Client(streamable_http_client(f"{up.runtime['gateway']}/mcp", http_client=http)) as mcp,
    ):
        assert {tool.name for tool in (await mcp.list_tools()).tools} >= {"git_clone", "git_push", "file_read"}
        result = await mcp.call_tool("git_log", {})
        assert not result.is_error
        assert [commit["subject"] for commit in (result.structured_content or {})["commits"]] == ["first"]
    cli(up, "kill", "--reason", "test")
    await until(lambda: ada("git.log").headers["crossfade-side"] == "old")
    assert ada("git.log").json()["commits"][0]["sha"] == head
    assert "not an isolation boundary" in cli(up, "status").stdout


async def test_a_killed_service_comes_back_with_its_workspaces(up: Up, ada: Agent, remote: Path) -> None:
    ada("git.clone", url=str(remote))
    before = up.pids["approach1"]
    os.kill(before, signal.SIGKILL)
    await until(lambda: up.pids["approach1"] != before and is_alive(up.pids["approach1"]))
    await until(lambda: ada("git.status").status_code == 200)


async def test_the_inventory_is_closed_to_clients(ada: Agent) -> None:
    for path in ("/v1/workspaces", "/v1/workspaces/x", "/v1//workspaces", "/v1/./workspaces", "/v1/%77orkspaces"):
        assert ada.http.get(path).status_code in (400, 404), path
    for method, path in (("POST", "/v1/remotes/check"), ("GET", "/metrics"), ("POST", "/v1//remotes/check")):
        assert ada.http.request(method, path, json={"url": "/etc"}).status_code in (400, 404), path


async def test_credentials_are_checked_on_both_sides(place: Path, remote: Path) -> None:
    canary = "ghp_canary-of-check-credentials"
    (place / "git.token").write_text(canary)
    with git_over_http(remote.parent, canary) as closed, git_over_http(remote.parent, "another") as refusing:
        hosts = ",".join(server.url.removeprefix("http://") for server in (closed, refusing))
        env = {
            "CROSSFADE_ALLOWED_REMOTES": hosts,
            "CROSSFADE_GIT_TOKEN_FILE": str(place / "git.token"),
            "CROSSFADE_GIT_TOKEN_HOSTS": hosts,
        }
        async with running_up(place / "data", None, env=env) as running:
            asked = ["check-credentials", "--data-dir", str(running.data_dir), "--json"]
            good = run_to_end([*asked, f"{closed.url}/{remote.name}"])
            assert good.returncode == 0, good.stderr
            checks = json.loads(good.stdout)["checks"]
            assert [(row["side"], row["code"], row["credential"]) for row in checks] == [
                ("old", "ok", True),
                ("new", "ok", True),
            ]
            bad = run_to_end([*asked, f"{refusing.url}/{remote.name}", f"{closed.url}/nothing.git"])
            assert bad.returncode == 1
            codes = [row["code"] for row in json.loads(bad.stdout)["checks"]]
            assert codes == ["remote_auth_failed"] * 2 + ["not_found"] * 2
            for done in (good, bad):
                assert canary not in done.stdout + done.stderr
        assert canary not in running.output.read_text()


def test_every_command_can_be_asked_for_help() -> None:
    for name in COMMANDS:
        assert run_to_end([name, "--help"]).returncode == 0, name
