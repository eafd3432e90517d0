"""Commands and services as processes: what ends them, what they inherit, what outlives a restart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.git_http import GitHttp, git_over_http
from tests.support.services import (
    SERVICES,
    TOKEN,
    Agent,
    Answer,
    Start,
    Workspace,
    agent_on,
    bare_repository,
    git,
    sandbox_home,
    started_service,
)
from tests.support.waiting import until

SECRET = "s3cr3t-of-the-remote"
Calling = asyncio.Task[Answer]
ALLOWED = {"CROSSFADE_ALLOWED_REMOTES": "127.0.0.1"}

pytestmark = pytest.mark.parametrize("name", SERVICES)


def processes_with(text: str) -> list[int]:
    """Processes that have a text in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def sockets_of(pid: int) -> set[str]:
    links = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return {link for link in links if link.startswith("socket:")}


def clones_in(home: Path) -> list[Path]:
    """Work trees of the repository that the tests clone."""
    return [path.parent for path in home.glob("*/*/box/*/README.md")]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def contents_below(*directories: Path) -> Iterator[tuple[Path, bytes]]:
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


@pytest.fixture
def home() -> Iterator[Path]:
    with sandbox_home() as path:
        yield path


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[GitHttp]:
    """Git over HTTP."""
    bare = bare_repository(tmp_path)
    git("config", "http.receivepack", "true", cwd=bare)
    with git_over_http(tmp_path) as http:
        yield http


@contextlib.asynccontextmanager
async def hanging_clone(url: str, remote: GitHttp, surface: str = "rest") -> AsyncIterator[tuple[Calling, str]]:
    """A clone that waits for its remote, and what its processes can be told by."""
    remote.arrived.clear()
    place = f"{remote.url}/hang/project.git"

    async def clone() -> Answer:
        async with agent_on(surface, url) as agent:
            return await agent.call("git.clone", url=place)

    task = asyncio.create_task(clone())
    try:
        await until(remote.arrived.is_set, "git asks the remote")
        assert len(processes_with(place)) >= 3  # its keeper, git, git-remote-http
        yield task, place
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _is_free(url: str) -> bool:
    """Whether a write gets the workspace, shown by an answer that only the holder of the lock can get."""
    async with agent_on("rest", url) as agent:
        return (await agent.call("git.add", files=["a"])).code == "unknown_workspace"


async def test_a_deadline_ends_every_process_of_the_command(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    start = Start({**ALLOWED, "CROSSFADE_LONGEST_OPERATION_S": "3"})
    async with started_service(name, tmp_path / "data", home, start) as service:
        async with hanging_clone(service.url, remote) as (task, place):
            answer = await task
            assert answer.code == "deadline"
            assert processes_with(place) == []
        assert await _is_free(service.url)


@pytest.mark.parametrize("surface", ["rest", "mcp"])
async def test_a_client_that_leaves_ends_its_command_and_frees_the_workspace(
    name: str, surface: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    async with started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service:
        async with hanging_clone(service.url, remote, surface) as (task, place):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda: processes_with(place) == [], "the command has ended")
        assert await _is_free(service.url)


async def test_a_service_that_is_killed_leaves_no_process(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        hanging_clone(service.url, remote) as (_, place),
    ):
        service.process.kill()
        await until(lambda: processes_with(place) == [], "the command has ended")


async def test_a_service_that_is_asked_to_end_ends_its_commands(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        hanging_clone(service.url, remote) as (_, place),
    ):
        assert await asyncio.to_thread(service.stop) == 0
        assert processes_with(place) == []


async def test_a_service_that_is_asked_to_end_lets_calls_finish(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    start = Start({**ALLOWED, "CROSSFADE_SHUTDOWN_GRACE_S": "60"})
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        cloning = asyncio.create_task(agent.call("git.clone", url=f"{remote.url}/slow/project.git"))
        await until(remote.arrived.is_set, "git asks the remote")
        service.process.terminate()
        await until(lambda: not _listens(service.url), "the service takes no new connection")
        remote.released.set()
        assert not (await cloning).is_error
        assert await asyncio.to_thread(service.process.wait, 30) == 0


async def test_what_had_to_be_killed_at_the_end_is_known_as_unknown(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    keyed = Workspace(more={"Idempotency-Key": "once"})
    start = Start({**ALLOWED, "CROSSFADE_SHUTDOWN_GRACE_S": "0.2"})
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url, keyed) as agent,
    ):
        place = f"{remote.url}/hang/project.git"
        cloning = asyncio.create_task(agent.call("git.clone", url=place))
        await until(remote.arrived.is_set, "git asks the remote")
        assert await asyncio.to_thread(service.stop) == 0
        assert processes_with(place) == []
        await asyncio.gather(cloning, return_exceptions=True)
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url, keyed) as agent,
    ):
        assert (await agent.call("git.clone", url=place)).code == "outcome_unknown"


def _listens(url: str) -> bool:
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    try:
        socket.create_connection((place.hostname, place.port), timeout=5).close()
    except ConnectionError:
        return False
    return True


async def test_the_end_of_the_lifeline_ends_the_service_and_its_commands(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    lifeline, held = os.pipe()
    start = Start({**ALLOWED, "CROSSFADE_LIFELINE_FD": str(lifeline)}, pass_fds=[lifeline])
    try:
        async with (
            started_service(name, tmp_path / "data", home, start) as service,
            hanging_clone(service.url, remote) as (_, place),
        ):
            os.close(held)
            held = -1
            await until(lambda: service.process.poll() is not None, "the service has ended")
            await until(lambda: processes_with(place) == [], "the command has ended")
    finally:
        os.close(lifeline)
        if held >= 0:
            os.close(held)


async def test_a_writer_that_waits_too_long_is_told_that_the_workspace_is_busy(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert not (await agent.call("git.clone", url=f"{remote.url}/project.git")).is_error
        async with hanging_clone(service.url, remote):
            reading, writing = await asyncio.gather(
                agent.call("git.status"), agent.call("file.write", path="a", content="")
            )
        assert not reading.is_error
        assert (writing.code, writing.content["retryable"], writing.status) == ("workspace_busy", True, 409)


async def test_writers_at_once_take_turns(name: str, tmp_path: Path, home: Path) -> None:
    bare = bare_repository(tmp_path)
    start = Start(local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        await agent.call("git.clone", url=str(bare))

        async def write_and_read(number: int) -> None:
            assert not (await agent.call("file.write", path=f"{number}", content="x")).is_error
            assert not (await agent.call("git.add", files=[f"{number}"])).is_error
            assert not (await agent.call("git.status")).is_error

        await asyncio.gather(*(write_and_read(number) for number in range(12)))
        assert sorted((await agent.call("git.status")).content["staged"]) == sorted(map(str, range(12)))


async def test_reads_go_on_while_clones_replace_what_they_read(name: str, tmp_path: Path, home: Path) -> None:
    bare = bare_repository(tmp_path)
    start = Start(local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        await agent.call("git.clone", url=str(bare))

        async def clone() -> None:
            for _ in range(4):
                assert not (await agent.call("git.clone", url=str(bare))).is_error

        cloning = asyncio.create_task(clone())
        while not cloning.done():
            for operation in ("git.status", "git.log", "file.list"):
                assert not (await agent.call(operation)).is_error
        await cloning
        assert len(clones_in(home)) == 1  # of all of them only the last is left


# --- restart -------------------------------------------------------------------------------------------------------


async def test_a_restart_finds_its_workspaces_again(name: str, tmp_path: Path, home: Path) -> None:
    bare = bare_repository(tmp_path)
    start = Start(local_remotes=[tmp_path])
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        await agent.call("git.clone", url=str(bare))
        await agent.call("file.write", path="mine.txt", content="x")
        service.process.kill()
    before = names_in(home / name)
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert (await agent.call("git.status")).content["untracked"] == ["mine.txt"]
        assert (await agent.call("git.pull")).content["updated"] is False
        async with agent_on("rest", service.url, Workspace(task="other")) as other:
            assert (await other.call("git.status")).code == "unknown_workspace"
    # No sandbox is lost or made anew for nothing.
    assert names_in(home / name) == before


async def test_what_a_crash_left_half_done_is_tidied_up(name: str, tmp_path: Path, home: Path, remote: GitHttp) -> None:
    async with started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service:
        async with agent_on("rest", service.url) as agent:
            await agent.call("git.clone", url=f"{remote.url}/project.git")
        async with hanging_clone(service.url, remote) as (_, place):
            service.process.kill()
            await until(lambda: processes_with(place) == [], "the command has ended")
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert (await agent.call("git.status")).content["clean"]
        [tree] = clones_in(home)
        assert names_in(tree.parent) == sorted(["home", tree.name])


# --- secrets and surroundings ---------------------------------------------------------------------------------------


def no_canary_in(content: bytes | str, where: object) -> None:
    """Neither the token nor the form in which it is sent."""
    content = content.encode() if isinstance(content, str) else content
    for canary in (SECRET.encode(), base64.b64encode(f"x-access-token:{SECRET}".encode())):
        assert canary not in content, where
    assert b"extraheader" not in content.lower(), where


def unpacked(bundle: bytes, place: Path) -> bytes:
    """Every object of a bundle, as it was before it was packed."""
    git("init", "--quiet", str(place))
    (place / "bundle").write_bytes(bundle)
    git("fetch", "--quiet", "bundle", "+refs/*:refs/carried/*", cwd=place)
    command = ["git", "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(command, cwd=place, check=True, capture_output=True).stdout


async def test_a_token_reaches_the_remote_and_nothing_else(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    remote.token = SECRET
    url = f"{remote.url}/project.git"
    keyed = Workspace(more={"Idempotency-Key": "once"})
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        agent_on("rest", service.url) as agent,
        agent_on("rest", service.url, keyed) as once,
        httpx.AsyncClient(base_url=service.url, headers={"Crossfade-Auth": TOKEN}, timeout=60) as inventory,
    ):
        answers = [await agent.call("git.clone", url=url), await agent.call("git.clone", url=url, token="wrong")]
        assert [answer.code for answer in answers] == ["remote_auth_failed"] * 2
        answers += [await agent.call("git.clone", url=url, token=SECRET)]
        answers += [await agent.call("file.write", path="a", content="x"), await agent.call("git.add", files=["a"])]
        answers += [await agent.call("git.commit", message="m"), await once.call("git.push", token=SECRET)]
        answers += [await agent.call("git.pull", token=SECRET), await once.call("git.push", token=SECRET)]
        assert not any(answer.is_error for answer in answers[2:]), answers
        assert (await agent.call("git.pull")).code == "remote_auth_failed"
        assert git("log", "-1", "--format=%s", "main", cwd=tmp_path / "project.git") == "m"
        for asked in ("/v1/workspaces", "/v1/workspaces/agent-1/task-1", "/v1/workspaces/digest", "/metrics"):
            told = await inventory.get(asked)
            assert told.status_code == 200
            no_canary_in(told.content, asked)
        exported = await inventory.get("/v1/workspaces/agent-1/task-1/export")
        assert exported.status_code == 200
        no_canary_in(str(exported.headers), "the manifest")
        no_canary_in(await asyncio.to_thread(unpacked, exported.content, tmp_path / "unpacked"), "the bundle")
        remote.token = None
        async with hanging_clone_with_token(agent, remote) as place:
            for pid in processes_with(place):
                assert SECRET.encode() not in command_of(pid)
        assert any(said and said.startswith("Basic ") for said in remote.authorizations)
    no_canary_in(json.dumps([answer.content for answer in answers]), "the answers")
    for path, content in contents_below(home, tmp_path / "data"):
        no_canary_in(content, path)


async def test_a_token_stays_nowhere_when_the_deadline_strikes(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    start = Start({**ALLOWED, "CROSSFADE_LONGEST_OPERATION_S": "3"})
    keyed = Workspace(more={"Idempotency-Key": "once"})
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        agent_on("rest", service.url) as agent,
        agent_on("rest", service.url, keyed) as once,
    ):
        assert not (await agent.call("git.clone", url=f"{remote.url}/project.git")).is_error
        struck = await once.call("git.clone", url=f"{remote.url}/hang/project.git", token=SECRET)
        assert struck.code == "deadline"
        again = await once.call("git.clone", url=f"{remote.url}/hang/project.git", token=SECRET)
        assert again.code == "outcome_unknown"
        no_canary_in(json.dumps([struck.content, again.content]), "the answers")
    assert any(said and said.startswith("Basic ") for said in remote.authorizations)
    for path, content in contents_below(home, tmp_path / "data"):
        no_canary_in(content, path)


async def test_the_services_own_token_goes_where_a_call_brings_none(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    remote.token = SECRET
    file = tmp_path / "git-token"
    file.write_text(SECRET)
    url = f"{remote.url}/project.git"
    own = {"CROSSFADE_GIT_TOKEN_FILE": str(file), "CROSSFADE_GIT_TOKEN_HOSTS": remote.url.removeprefix("http://")}
    async with (
        started_service(name, tmp_path / "data", home, Start({**ALLOWED, **own})) as service,
        agent_on("rest", service.url) as agent,
    ):
        answers = [await agent.call("git.clone", url=url), await agent.call("git.pull")]
        assert not any(answer.is_error for answer in answers), answers
        # What a call brings counts, even if it is wrong.
        assert (await agent.call("git.pull", token="wrong")).code == "remote_auth_failed"
    elsewhere = {**own, "CROSSFADE_GIT_TOKEN_HOSTS": "github.com"}
    remote.authorizations.clear()
    async with (
        started_service(name, tmp_path / "data", home, Start({**ALLOWED, **elsewhere})) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert (await agent.call("git.clone", url=url)).code == "remote_auth_failed"
    assert set(remote.authorizations) == {None}
    for path, content in contents_below(home, tmp_path / "data"):
        assert SECRET.encode() not in content, path


@contextlib.asynccontextmanager
async def hanging_clone_with_token(agent: Agent, remote: GitHttp) -> AsyncIterator[str]:
    place = f"{remote.url}/hang/project.git"
    remote.arrived.clear()
    task = asyncio.create_task(agent.call("git.clone", url=place, token=SECRET))
    await until(remote.arrived.is_set, "git asks the remote")
    yield place
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_remote_that_sends_the_token_back_does_not_get_it_into_an_error(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        agent_on("rest", service.url) as agent,
    ):
        answer = await agent.call("git.clone", url=f"{remote.url}/echo/project.git", token=SECRET)
        assert "you said" in answer.content["message"]
        sent = [said.split()[1] for said in remote.authorizations if said]
        assert sent
        for secret in (SECRET, *sent):
            assert secret not in answer.content["message"]
            assert secret not in service.log.read_text()


async def test_a_remote_is_known_by_its_answer_and_not_by_numbers_in_its_name(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert (await agent.call("git.clone", url=f"{remote.url}/401-403.git")).code == "not_found"


async def test_a_redirect_is_not_followed(name: str, tmp_path: Path, home: Path, remote: GitHttp) -> None:
    async with (
        started_service(name, tmp_path / "data", home, Start(ALLOWED)) as service,
        agent_on("rest", service.url) as agent,
    ):
        assert (await agent.call("git.clone", url=f"{remote.url}/moved/project.git", token=SECRET)).is_error
        assert (await agent.call("git.status")).code == "unknown_workspace"


async def test_a_command_inherits_nothing_of_the_service(
    name: str, tmp_path: Path, home: Path, remote: GitHttp
) -> None:
    start = Start({**ALLOWED, "CROSSFADE_CANARY": "canary", "HOME": "/canary-home", "http_proxy": ""})
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        hanging_clone(service.url, remote) as (_, place),
    ):
        for pid in processes_with(place):
            env = environment_of(pid)
            assert not [name for name in env if name.startswith("CROSSFADE")]
            assert TOKEN not in env.values()
            assert env["HOME"].startswith(str(home))
            assert env["GIT_CONFIG_NOSYSTEM"] == "1"
            assert env["GIT_ALLOW_PROTOCOL"] == "https:http"
            assert not sockets_of(pid) & sockets_of(service.process.pid)
        assert TOKEN not in service.log.read_text()


# --- the process itself --------------------------------------------------------------------------------------------


async def test_the_e2b_provider_without_a_key_says_so(name: str, tmp_path: Path) -> None:
    env = {**os.environ, "CROSSFADE_SANDBOX_PROVIDER": "e2b"}
    command = [sys.executable, "-m", f"backends.{name}", "--port", "0", "--data-dir", str(tmp_path / "d")]
    done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"needs E2B_API_KEY" in done.stderr


async def test_a_busy_port_is_said_and_ends_it(name: str, tmp_path: Path, home: Path) -> None:
    env = {**os.environ, "CROSSFADE_SANDBOX_ROOT": str(home)}
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command = [sys.executable, "-m", f"backends.{name}", "--port", port, "--data-dir", str(tmp_path / "d")]
        done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"in use" in done.stderr


async def test_health_and_hosts_and_what_is_no_route(name: str, tmp_path: Path, home: Path) -> None:
    start = Start({"CROSSFADE_ALLOWED_HOSTS": "git.example"})
    async with (
        started_service(name, tmp_path / "data", home, start) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        assert (await client.get("/healthz")).json() == {"status": "ok", "service": name}
        assert (await client.get("/readyz")).json()["status"] == "ready"
        for method, path, status in (("GET", "/v1/git/status", 405), ("POST", "/v1/git/nothing", 404)):
            response = await client.request(method, path)
            assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        for method in ("GET", "DELETE"):
            assert (await client.request(method, "/mcp", headers={"Host": "git.example"})).status_code == 405
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"Accept": "application/json, text/event-stream"}
        assert (await client.post("/mcp", json=call, headers=accept)).status_code == 421
        assert (await client.post("/mcp", json=call, headers={**accept, "Host": "git.example"})).status_code == 200


async def test_bodies_are_read_strictly(name: str, tmp_path: Path, home: Path) -> None:
    async with (
        started_service(name, tmp_path / "data", home) as service,
        httpx.AsyncClient(base_url=service.url, headers=Workspace().headers) as client,
    ):
        for body in (
            b"[]", b"null", b"{", b'{"a":NaN}', b'{"url":"/a","url":"/b"}', b"\xff", b'{"path":"\\ud800"}',
            b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "{}".encode("utf-16"), b"\xef\xbb\xbf{}",
        ):  # fmt: skip
            response = await client.post("/v1/file/read", content=body)
            assert (response.status_code, response.json()["code"]) == (400, "invalid_argument"), body
        response = await client.post("/v1/git/status", content=b" " * (9 << 20))
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert (await client.post("/v1/git/status")).json()["code"] == "unknown_workspace"
