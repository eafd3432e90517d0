"""`crossfade gateway`: real workers under the real supervisor, in front of stub sides."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.redis_process import running_redis
from tests.support.sides import StubSide, client, get, live, migration, stub_sides
from tests.support.up import Up, children, crossfade, is_alive, run_to_end, running_up, start
from tests.support.waiting import until, until_async
from tests.support.worker import bench

Sides = dict[Side, StubSide]

KEEPING_CLIENTS = 20
RESTARTS = int(os.environ.get("CROSSFADE_TEST_RESTARTS", "2"))
"""`make torture` asks for more."""


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
async def gateway(tmp_path: Path, sides: Sides) -> AsyncIterator[Up]:
    """Two workers on a Redis that holds a policy."""
    content = live(migration(sides), 50)
    with running_redis() as redis:
        async with bench(tmp_path, redis.url, content) as place:
            await place.boot()
            env = {"CROSSFADE_REDIS_URL": redis.url, "CROSSFADE_DRAIN__LINGER_S": "0.2"}
            async with running_up(tmp_path / "data", content, env=env, command="gateway") as up:
                yield up


async def ask(up: Up, count: int = 1) -> None:
    """So many requests, each on a connection of its own; all must be answered by a side."""
    for n in range(count):
        async with client(up.port("gateway")) as connection:
            assert (await connection.ask(get("/items/1", f"x-key: k{n}"))).body in (b"old", b"new")


async def test_it_runs_workers_only_and_says_where(gateway: Up) -> None:
    runtime = gateway.runtime
    assert set(runtime["pids"]) == {"supervisor", "gateway-0", "gateway-1"}
    assert runtime["pids"]["supervisor"] == gateway.process.pid
    assert {"control", "token_file"}.isdisjoint(runtime)
    assert runtime["migration"] == "shop"
    await ask(gateway, 4)


async def test_it_is_ready_when_every_worker_is(gateway: Up) -> None:
    status = await gateway.status()
    assert (status["code"], status["ready"]) == (200, True)
    assert {name: part["state"] for name, part in status["parts"].items()} == {
        "gateway-0": "ready",
        "gateway-1": "ready",
    }


async def test_metrics_add_up_over_workers_and_over_a_crash(gateway: Up) -> None:
    await ask(gateway, 20)
    await until_async(lambda: _counted(gateway, 20), "20 requests are counted")
    before = gateway.pids["gateway-0"]
    os.kill(before, signal.SIGKILL)
    await until(lambda: gateway.pids["gateway-0"] != before, "another worker runs")
    await ask(gateway, 10)
    await until_async(lambda: _counted(gateway, 30), "30 requests are counted")
    assert (await gateway.status())["parts"]["gateway-0"]["restarts"] == 1


async def _counted(up: Up, count: int) -> bool:
    return await up.metric("crossfade_requests_total{") == count


async def test_a_rolling_restart_fails_no_request_and_counts_each_once(gateway: Up) -> None:
    before = gateway.pids
    asked = 0
    gateway.signal(signal.SIGUSR2)
    while (await gateway.status())["rolling_restart"]["state"] != "done":
        await ask(gateway, 5)
        asked += 5
    after = gateway.pids
    assert after["supervisor"] == before["supervisor"]
    assert {after["gateway-0"], after["gateway-1"]}.isdisjoint(before.values())
    await until(lambda: not is_alive(before["gateway-1"]), "the predecessor ends")
    await until_async(lambda: _counted(gateway, asked), f"{asked} requests are counted")


async def test_a_connection_outlives_a_rolling_restart_until_it_is_told(gateway: Up) -> None:
    async with client(gateway.port("gateway")) as connection:
        assert (await connection.ask(get("/items/1", "x-key: a"))).status == 200
        gateway.signal(signal.SIGUSR2)
        while True:
            answer = await connection.ask(get("/items/1", "x-key: a"))
            assert answer.status == 200
            if answer.headers.get(b"connection") == b"close":
                break
        assert await connection.rest() == b""


async def test_clients_that_keep_their_connections_lose_nothing_over_many_restarts(gateway: Up) -> None:
    answered = 0
    is_over = False

    async def ask_on() -> None:
        nonlocal answered
        while not is_over:
            async with client(gateway.port("gateway")) as connection:
                is_kept = True
                while is_kept and not is_over:
                    answer = await connection.ask(get("/items/1", f"x-key: k{answered}"))
                    assert answer.status == 200
                    answered += 1
                    is_kept = answer.headers.get(b"connection") != b"close"

    async def restart(times: int) -> None:
        nonlocal is_over
        for _ in range(times):
            done = await asyncio.to_thread(run_to_end, ["restart", "--data-dir", str(gateway.data_dir), "--json"])
            assert json.loads(done.stdout) == {"restarted": True, "why": None}
        is_over = True

    async with asyncio.TaskGroup() as group:
        for _ in range(KEEPING_CLIENTS):
            group.create_task(ask_on())
        group.create_task(restart(RESTARTS))
    await until_async(lambda: _counted(gateway, answered), f"{answered} requests are counted")


async def test_restart_waits_until_every_worker_was_replaced(gateway: Up) -> None:
    before = gateway.pids
    done = await asyncio.to_thread(run_to_end, ["restart", "--data-dir", str(gateway.data_dir), "--json"])
    assert (done.returncode, json.loads(done.stdout)) == (0, {"restarted": True, "why": None})
    assert {gateway.pids["gateway-0"], gateway.pids["gateway-1"]}.isdisjoint(before.values())


async def test_a_restart_of_nothing_says_so(tmp_path: Path) -> None:
    failed = await asyncio.to_thread(run_to_end, ["restart", "--data-dir", str(tmp_path)])
    assert failed.returncode == 1
    assert f"crossfade does not run on {tmp_path}" in failed.stderr


async def test_a_broken_file_leaves_all_as_it_was(gateway: Up) -> None:
    gateway.edit_migration('"writes": "none"', '"writes": "sometimes"')
    gateway.signal(signal.SIGHUP)
    await until_async(lambda: _reloaded(gateway, "failed"), "the reload is refused")
    assert "groups.items.writes" in (await gateway.status())["reload"]["why"]
    await ask(gateway, 4)


async def test_another_migration_is_refused_while_running(gateway: Up) -> None:
    gateway.edit_migration('"shop"', '"other"')
    gateway.signal(signal.SIGHUP)
    await until_async(lambda: _reloaded(gateway, "failed"), "the reload is refused")
    assert "is migration other, not shop" in (await gateway.status())["reload"]["why"]


async def test_a_reload_takes_the_new_definition(gateway: Up, sides: Sides) -> None:
    gateway.edit_migration('"migration":', '"deny_paths": ["/items/hidden"], "migration":')
    gateway.signal(signal.SIGHUP)
    await until_async(lambda: _hides(gateway), "both workers hide the path")


async def _hides(up: Up) -> bool:
    statuses = []
    for _ in range(8):
        async with client(up.port("gateway")) as connection:
            statuses.append((await connection.ask(get("/items/hidden", "x-key: a"))).status)
    return statuses == [404] * 8


async def _reloaded(up: Up, state: str) -> bool:
    return bool((await up.status())["reload"]["state"] == state)


async def test_a_stop_leaves_nothing(gateway: Up) -> None:
    pids = gateway.pids
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0
    assert not any(is_alive(pid) for pid in pids.values())
    assert not (gateway.data_dir / "runtime.json").exists()


ON_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.dup2(0, 2)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_closing_its_terminal_stops_it(tmp_path: Path, sides: Sides) -> None:
    ours, theirs = os.openpty()
    data_dir, file = tmp_path / "data", tmp_path / "migration.json"
    file.write_text(json.dumps(migration(sides)))
    command = ["gateway", "--data-dir", str(data_dir), "--migration", str(file), "--port", "0", "--ops-port", "0"]
    process = subprocess.Popen(  # noqa: ASYNC220 - starting takes a millisecond
        [sys.executable, "-c", ON_TERMINAL, *crossfade(), *command],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "CROSSFADE_REDIS_URL": "redis://127.0.0.1:1"},
    )
    os.close(theirs)
    try:
        await until((data_dir / "parts.json").exists, "it starts its parts")
        await until(lambda: len(children(process.pid)) == 2, "both workers run")
        workers = children(process.pid)
        os.close(ours)
        await until(lambda: process.poll() is not None, "it ends")
        assert process.returncode == 0
        assert not any(map(is_alive, workers))
    finally:
        process.kill()
        process.wait()


async def test_a_killed_supervisor_leaves_nothing(gateway: Up) -> None:
    pids = gateway.pids
    gateway.signal(signal.SIGKILL)
    await until(lambda: not any(map(is_alive, pids.values())), "every part ends")


async def test_a_second_one_on_the_same_directory_is_refused(gateway: Up) -> None:
    second = start(
        gateway.data_dir,
        Path(gateway.runtime["migration_file"]),
        env={"CROSSFADE_REDIS_URL": "redis://127.0.0.1:1"},
        command="gateway",
    )
    assert await second.ended() == 1
    assert f"crossfade runs on {gateway.data_dir} already (pid {gateway.process.pid})" in second.output.read_text()
    await ask(gateway)


async def test_a_busy_port_is_named_with_its_owner(tmp_path: Path, sides: Sides) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        env = {"CROSSFADE_REDIS_URL": "redis://127.0.0.1:1"}
        refused = start(tmp_path / "data", migration(sides), "--ops-port", str(port), env=env, command="gateway")
        assert await refused.ended() == 1
    assert f"port {port} on 127.0.0.1 is in use by " in refused.output.read_text()
    assert f"(pid {os.getpid()})" in refused.output.read_text()


async def test_without_a_redis_it_says_where_to_name_one(tmp_path: Path, sides: Sides) -> None:
    refused = start(tmp_path / "data", migration(sides), env={}, command="gateway")
    assert await refused.ended() == 1
    assert "there is no Redis; set redis_url" in refused.output.read_text()


async def test_a_bundled_service_is_not_started_and_said_so(tmp_path: Path) -> None:
    refused = start(tmp_path / "data", None, env={"CROSSFADE_REDIS_URL": "redis://127.0.0.1:1"}, command="gateway")
    assert await refused.ended() == 1
    assert "names bundled:approach1, bundled:approach2, not run here" in refused.output.read_text()
