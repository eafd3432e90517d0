"""The embedded Redis as a real process behind the real launcher."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.local.data_dir import DataDir
from gateway.local.embedded_redis import EmbeddedRedis, prepare_redis
from gateway.local.plan import PartSpec
from gateway.local.readiness import redis_probe
from gateway.local.supervisor import Plan, Supervisor
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[tuple[EmbeddedRedis, Supervisor]]:
    directory = DataDir(data_dir)
    redis = prepare_redis(directory, os.environ)
    probe = redis_probe(redis.socket_path, redis.password_file)
    spec = PartSpec("redis", redis.command, {}, is_foreign=True, probe=probe)
    supervisor = Supervisor(Plan([[spec]], [], lambda: None, lambda _: None))
    try:
        await supervisor.start()
        yield redis, supervisor
    finally:
        await supervisor.stop()
        redis.clean_up()
        directory.close()


def talk(redis: EmbeddedRedis, *commands: str, password: bool = True) -> str:
    """What the server says to inline commands."""
    lines = [f"AUTH {redis.password_file.read_text()}"] if password else []
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(redis.socket_path))
        client.sendall("\r\n".join([*lines, *commands, "QUIT", ""]).encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


async def test_it_answers_only_who_knows_the_password(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as (redis, _):
        assert "NOAUTH" in talk(redis, "GET k", password=False)
        assert "+PONG" in talk(redis, "PING")


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "DEBUG SLEEP 0", "CONFIG GET requirepass"])
async def test_what_could_lose_the_policy_is_unknown_to_it(tmp_path: Path, command: str) -> None:
    async with running(tmp_path / "data") as (redis, _):
        assert "unknown command" in talk(redis, command)


async def test_the_process_id_is_the_servers_own_and_it_listens_on_no_port(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as (redis, supervisor):
        pid = supervisor.pids()["redis"]
        assert f"process_id:{pid}\r\n" in talk(redis, "INFO server")
        assert "tcp_port:0\r\n" in talk(redis, "INFO server")
        assert redis.password_file.read_text() not in (command_line(pid) or "")


async def test_what_was_written_survives_a_stop(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as (redis, _):
        talk(redis, "SET k kept")
    async with running(tmp_path / "data") as (redis, _):
        assert "kept" in talk(redis, "GET k")


async def test_a_killed_server_comes_back_with_its_data_on_the_same_socket(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as (redis, supervisor):
        talk(redis, "SET k kept")
        before = supervisor.pids()["redis"]
        os.kill(before, signal.SIGKILL)
        await until(lambda: supervisor.pids()["redis"] != before, "another server runs")
        assert "kept" in talk(redis, "GET k")


async def test_stopping_leaves_no_server_and_no_watcher(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as (redis, supervisor):
        pid = supervisor.pids()["redis"]
    await until(lambda: not processes_about(tmp_path), "server and watcher are gone")
    assert command_line(pid) is None
    assert not redis.socket_path.exists()


async def test_a_long_data_directory_works_too(tmp_path: Path) -> None:
    async with running(tmp_path / ("x" * 100)) as (redis, _):
        assert "+PONG" in talk(redis, "PING")
    assert not redis.socket_path.parent.exists()


HOLDER = """
import asyncio, os, sys
from pathlib import Path
from tests.integration.test_embedded_redis import running
async def main():
    async with running(Path(sys.argv[1])):
        Path(sys.argv[1]).with_name("ready").touch()
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(  # noqa: ASYNC220 - starting takes a millisecond
        [sys.executable, "-c", HOLDER, str(tmp_path / "data")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        await until((tmp_path / "ready").exists, "the server runs")
        assert processes_about(tmp_path / "data" / "redis")
    finally:
        holder.kill()
        holder.wait()
    await until(lambda: not processes_about(tmp_path), "server and watcher are gone")


def command_line(pid: int) -> str | None:
    """Arguments of a process; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return None


def processes_about(path: Path) -> list[str]:
    """Processes that have a path among their arguments, or are a server with it as its directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            directory = (process / "cwd").readlink()
            if str(path) in (process / "cmdline").read_text() or directory.is_relative_to(path):
                found.append(process.name)
        except OSError:
            continue
    return found
