"""The two services as real processes, clients that speak REST or MCP to them, and repositories to work on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from backends.common.removal import remove_tree
from tests.support.waiting import until_async

SERVICES = ("approach1", "approach2")
SURFACES = ("rest", "mcp")
TOKEN = "internal-token-of-the-tests"

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """How a call ended: its result or its error, the same over both surfaces."""

    content: dict[str, Any]
    is_error: bool
    status: int | None = None

    @property
    def code(self) -> str | None:
        """The code of an error."""
        return str(self.content["code"]) if self.is_error else None


class Agent(Protocol):
    """A client with a workspace."""

    async def call(self, operation: str, **arguments: Any) -> Answer: ...


@dataclass
class Workspace:
    """Headers that name a workspace."""

    agent: str = "agent-1"
    task: str = "task-1"
    more: dict[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """For every request."""
        return {"X-Agent-Id": self.agent, "X-Task-Id": self.task, **self.more}


class RestAgent:
    """Speaks REST."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def call(self, operation: str, **arguments: Any) -> Answer:
        """Calls an operation by its name of the contract."""
        response = await self._client.post("/v1/" + operation.replace(".", "/"), json=arguments)
        content = response.json()
        if response.status_code == 200:
            return Answer(content, is_error=False, status=200)
        assert response.headers["content-type"] == "application/problem+json"
        assert content["status"] == response.status_code
        error = {name: content[name] for name in ("code", "message", "retryable")}
        return Answer(error, is_error=True, status=response.status_code)


class McpAgent:
    """Speaks MCP by the official client; a client for each call, since the task that enters one must leave it."""

    def __init__(self, http: httpx2.AsyncClient, url: str, mode: str) -> None:
        self._http = http
        self._url = url
        self._mode = mode

    async def call(self, operation: str, **arguments: Any) -> Answer:
        """Calls the tool of an operation."""
        transport = streamable_http_client(f"{self._url}/mcp", http_client=self._http)
        async with Client(transport, mode=self._mode) as client:
            result = await client.call_tool(operation.replace(".", "_"), arguments)
        assert isinstance(result.structured_content, dict)
        assert isinstance(result.content[0], TextContent)
        assert json.loads(result.content[0].text) == result.structured_content
        return Answer(result.structured_content, is_error=result.is_error)


@contextlib.asynccontextmanager
async def agent_on(surface: str, url: str, workspace: Workspace | None = None) -> AsyncIterator[Agent]:
    """A client of a service."""
    headers = (workspace or Workspace()).headers
    if surface == "rest":
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as rest:
            yield RestAgent(rest)
    else:
        async with httpx2.AsyncClient(headers=headers, timeout=120) as http:
            yield McpAgent(http, url, "legacy" if surface == "mcp-legacy" else "2026-07-28")


@dataclass
class Service:
    """A service that runs."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    sandbox_root: Path
    provider: str = "local"

    def stop(self) -> int:
        """Asks it to end, and waits."""
        self.process.terminate()
        return self.process.wait(30)


@dataclass(frozen=True)
class Start:
    """How a service is started.

    Attributes:
        env: More of its environment.
        pass_fds: Descriptors that it inherits.
        local_remotes: Directories of repositories that it may use.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()
    local_remotes: Sequence[Path] = ()


@contextlib.contextmanager
def sandbox_home() -> Iterator[Path]:
    """A place for sandboxes that another user can reach; pytest's own directories are closed."""
    path = Path(tempfile.mkdtemp(prefix="cf-sandboxes-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        remove_tree(path)


def launch(name: str, data_dir: Path, sandbox_root: Path, start: Start | None = None, port: int = 0) -> Service:
    """Starts a service; the caller waits with `wait_ready` and ends it with `end`."""
    start = start or Start()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    url = "http://{}:{}".format(*sock.getsockname())
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CROSSFADE_ALLOWED_LOCAL_REMOTES": os.pathsep.join(map(str, start.local_remotes)),
        "CROSSFADE_INTERNAL_TOKEN": TOKEN,
        "CROSSFADE_SANDBOX_ROOT": str(sandbox_root),
        **start.env,
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "stderr.log"
    with log.open("ab") as stderr, sock:
        process = subprocess.Popen(
            [sys.executable, "-m", f"backends.{name}", "--fd", str(sock.fileno()), "--data-dir", str(data_dir)],
            env=env,
            stderr=stderr,
            pass_fds=[sock.fileno(), *start.pass_fds],
        )
    return Service(url, process, log, sandbox_root, env.get("CROSSFADE_SANDBOX_PROVIDER", "local"))


async def wait_ready(service: Service) -> None:
    """Returns once it serves.

    Raises:
        AssertionError: It ended, or never served.
    """
    async with httpx.AsyncClient() as client:
        await until_async(lambda: _is_ready(service, client), "the service is ready", limit_s=60)


async def has_been_surveyed(service: Service) -> None:
    """Returns when no survey of what was written runs any more: nothing looks at the workspaces behind the test."""
    async with httpx.AsyncClient(base_url=service.url, headers={"Crossfade-Auth": TOKEN}, timeout=60) as client:
        cursor = ""
        while cursor is not None:
            answer = await client.get("/v1/workspaces", params={"cursor": cursor})
            assert answer.status_code == 200, answer.text
            cursor = answer.json()["next_cursor"]


def end(service: Service) -> None:
    """Ends a service if the test did not."""
    if service.process.poll() is None:
        service.process.terminate()
    try:
        service.process.wait(30)
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


@contextlib.asynccontextmanager
async def started_service(
    name: str, data_dir: Path, sandbox_root: Path, start: Start | None = None
) -> AsyncIterator[Service]:
    """A service whose sandboxes outlive it."""
    service = launch(name, data_dir, sandbox_root, start)
    try:
        await wait_ready(service)
        yield service
    finally:
        await asyncio.to_thread(end, service)


@contextlib.asynccontextmanager
async def running_service(
    name: str,
    data_dir: Path,
    *,
    allowed_local_remotes: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """The URL of a service that runs and leaves nothing behind."""
    start = Start(env or {}, local_remotes=tuple(allowed_local_remotes))
    with sandbox_home() as home:
        async with started_service(name, data_dir, home, start) as service:
            yield service.url


async def _is_ready(service: Service, client: httpx.AsyncClient) -> bool:
    if service.process.poll() is not None:
        raise AssertionError(f"the service ended: {service.log.read_text()[-2000:]}")
    try:
        return (await client.get(f"{service.url}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def tree_of(service: Service, agent: Agent) -> Path:
    """The work tree, on disk, of an agent's workspace."""
    name = f"canary-{uuid.uuid4().hex}"
    await agent.call("file.write", path=name, content="x")
    # On E2B the clone that is in place has a second name.
    [path] = {path.resolve() for path in service.sandbox_root.glob(f"*/*/box/*/{name}")}
    path.unlink()
    return path.parent


# --- repositories --------------------------------------------------------------------------------------------------

_GIT_ENV = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.invalid",
    "GIT_AUTHOR_DATE": "@1700000000 +0000",
    "GIT_COMMITTER_NAME": "Somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.invalid",
    "GIT_COMMITTER_DATE": "@1700000000 +0000",
}


def git(*arguments: str, cwd: Path | None = None) -> str:
    """Runs git as the test's own user; its standard output."""
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, check=True, capture_output=True, env={"PATH": os.environ["PATH"], **_GIT_ENV}
    )
    return done.stdout.decode().strip()


def bare_repository(directory: Path, name: str = "project") -> Path:
    """A bare repository of one commit on `main`: `README.md`, `src/main.py`, `run.sh` (executable)."""
    work = directory / f"{name}-work"
    git("init", "--quiet", "--initial-branch=main", str(work))
    (work / "README.md").write_text("hello\n")
    (work / "src").mkdir()
    (work / "src" / "main.py").write_text("print('hello')\n")
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    return publish(work, directory / f"{name}.git")


def publish(work: Path, bare: Path) -> Path:
    """Commits everything in a work tree and makes a bare repository of it."""
    git("add", "--all", cwd=work)
    git("commit", "--quiet", "--message=first", cwd=work)
    git("clone", "--quiet", "--bare", str(work), str(bare))
    return bare
