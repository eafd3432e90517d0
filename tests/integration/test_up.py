"""`crossfade up` with real parts: embedded Redis, control, two gateway workers, in front of stub sides."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.core.model import Side
from tests.support.sides import StubSide, client, get, live, migration, stub_sides
from tests.support.up import Up, is_alive, running_up, shown_by, start
from tests.support.waiting import until, until_async

Sides = dict[Side, StubSide]
PARTS = ("redis", "control", "gateway-0", "gateway-1")


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
async def up(tmp_path: Path, sides: Sides) -> AsyncIterator[Up]:
    async with running_up(tmp_path / "data", live(migration(sides), 50)) as running:
        yield running


async def ask(up: Up, key: str = "a") -> bytes:
    """Which side answered a request with a key."""
    async with client(up.port("gateway")) as connection:
        answer = await connection.ask(get("/items/1", f"x-key: {key}"))
        assert answer.status == 200, answer
        return answer.body


async def control(up: Up, path: str) -> httpx.Response:
    """Asks the control API with the token that `up` made."""
    async with httpx.AsyncClient(base_url=up.runtime["control"], timeout=30, trust_env=False) as http:
        return await http.get(path, headers={"authorization": f"Bearer {up.token}"})


async def test_when_it_is_ready_it_serves_and_says_where(up: Up, sides: Sides) -> None:
    runtime = up.runtime
    assert runtime["version"] == 1
    assert runtime["migration"] == "shop"
    assert runtime["instances"] == {side.value: [stub.url] for side, stub in sides.items()}
    assert {side: runtime[side] for side in ("old", "new")} == {side.value: stub.url for side, stub in sides.items()}
    assert runtime["redis"] == f"unix://{up.data_dir}/redis/redis.sock"
    assert set(runtime["pids"]) == {"supervisor", *PARTS}
    assert all(map(is_alive, runtime["pids"].values()))
    assert {await ask(up, f"k{n}") for n in range(20)} == {b"old", b"new"}
    assert (await control(up, "/v1/status")).status_code == 200


async def test_it_prints_urls_and_the_next_three_commands(up: Up) -> None:
    await until(lambda: "Ctrl-C" in up.printed.read_text(), "it says that it is ready")
    printed = up.printed.read_text()
    for name in ("gateway", "control", "ops", "old", "new"):
        assert up.runtime[name] in printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("  crossfade ")] == [
        "status",
        "stage",
        "share",
    ]


async def test_everything_it_keeps_is_private_and_secrets_are_in_no_command_line(up: Up) -> None:
    paths = [up.data_dir, *up.data_dir.rglob("*")]
    assert [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077] == []
    secrets = [
        (up.data_dir / name).read_text() for name in ("token", "internal.token", "force.secret", "redis.password")
    ]
    shown = up.output.read_text() + up.printed.read_text() + json.dumps(up.runtime)
    shown += "".join(map(shown_by, up.pids.values()))
    assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("name", PARTS)
async def test_a_killed_part_comes_back_and_the_runtime_file_knows(up: Up, name: str) -> None:
    before = up.pids
    side = await ask(up)
    os.kill(before[name], signal.SIGKILL)
    await until(lambda: up.pids[name] != before[name], f"{name} comes back")
    assert {other: pid for other, pid in up.pids.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    assert is_alive(up.pids[name])
    assert await ask(up) == side
    assert '"part_ended"' in up.output.read_text()


def spoil(up: Up, how: str) -> None:
    """Does to the migration file what an operator might, and tells nobody."""
    file = Path(up.runtime["migration_file"])
    if how == "broken":
        file.write_text("migration: [")
    elif how == "gone":
        file.unlink()
    else:
        up.edit_migration('"item.find"', '"item.seek"')


@pytest.mark.parametrize("found", ["broken", "gone", "changed"])
async def test_what_is_started_again_takes_the_file_that_was_accepted(up: Up, found: str) -> None:
    before = up.pids
    spoil(up, found)
    killed = ("control", "gateway-0", "gateway-1")
    for name in killed:
        os.kill(before[name], signal.SIGKILL)
    await until(lambda: all(up.pids[name] != before[name] for name in killed), "all are back")
    assert await ask(up) in (b"old", b"new")
    # Nobody has told it to use another one.
    operations = (await control(up, "/v1/status")).json()["operations"]
    assert "item.find" in operations
    assert "item.seek" not in operations


async def test_clients_notice_nothing_when_redis_and_control_are_killed(up: Up) -> None:
    before = up.pids
    side = await ask(up)
    for name in ("redis", "control"):
        os.kill(before[name], signal.SIGKILL)
    while any(up.pids[name] == before[name] for name in ("redis", "control")):
        assert await ask(up) == side
    assert await ask(up) == side


async def test_a_restart_keeps_policy_and_secrets(tmp_path: Path, sides: Sides) -> None:
    content = live(migration(sides), 50)
    async with running_up(tmp_path / "data", content) as first:
        token = first.token
        status = (await control(first, "/v1/status")).json()
        answered = [await ask(first, f"k{n}") for n in range(20)]
    async with running_up(tmp_path / "data", content) as second:
        assert second.token == token
        again = (await control(second, "/v1/status")).json()
        assert (again["lineage"], again["epoch"]) == (status["lineage"], status["epoch"])
        assert [await ask(second, f"k{n}") for n in range(20)] == answered


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_leaves_nothing(up: Up, sign: signal.Signals) -> None:
    pids = up.pids
    up.signal(sign)
    assert await up.ended() == 0
    assert not any(map(is_alive, pids.values()))
    assert not (up.data_dir / "runtime.json").exists()


async def test_a_second_signal_does_not_wait_for_anybody(up: Up, sides: Sides) -> None:
    asked = asyncio.Event()

    async def never_answers(peer: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    for side in sides.values():
        side.script = never_answers
    async with client(up.port("gateway")) as connection:
        await connection.send(get("/items/1", "x-key: a"))
        await asked.wait()
        up.signal(signal.SIGTERM)
        await until_async(lambda: _stops(up), "it waits for the answer")
        up.signal(signal.SIGTERM)
        assert await up.ended() == 0


async def _stops(up: Up) -> bool:
    try:
        return bool((await up.status())["code"] == 503)
    except (httpx.HTTPError, OSError):
        return True


async def test_a_killed_supervisor_leaves_nothing_not_even_redis(up: Up) -> None:
    pids = up.pids
    up.signal(signal.SIGKILL)
    await until(lambda: not any(map(is_alive, pids.values())), "every part ends")


async def test_after_a_killed_supervisor_it_starts_again(tmp_path: Path, sides: Sides) -> None:
    content = live(migration(sides), 50)
    async with running_up(tmp_path / "data", content) as first:
        pids = first.pids
        first.signal(signal.SIGKILL)
        await until(lambda: not any(map(is_alive, pids.values())), "every part ends")
    async with running_up(tmp_path / "data", content) as second:
        assert await ask(second) in (b"old", b"new")


async def test_the_redis_of_a_killed_supervisor_is_waited_for(tmp_path: Path, sides: Sides) -> None:
    content = live(migration(sides), 50)
    async with running_up(tmp_path / "data", content) as first:
        pids = first.pids
        # It does not hear its watcher, and lives a few seconds longer than everything else.
        os.kill(pids["redis"], signal.SIGSTOP)
        first.signal(signal.SIGKILL)
        async with running_up(tmp_path / "data", content) as second:
            assert not is_alive(pids["redis"])
            assert (tmp_path / "data" / "redis" / "redis.sock").is_socket()
            assert second.pids["redis"] != pids["redis"]


async def test_control_hears_of_a_reload(up: Up) -> None:
    up.edit_migration('"item.find"', '"item.seek"')
    up.signal(signal.SIGHUP)
    await until_async(lambda: _knows(up, "item.seek"), "control knows the new operation")


async def _knows(up: Up, operation: str) -> bool:
    return operation in (await control(up, "/v1/status")).json()["operations"]


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("option", ["--port", "--control-port", "--ops-port"])
async def test_a_busy_port_is_named_with_its_owner(tmp_path: Path, sides: Sides, busy: int, option: str) -> None:
    refused = start(tmp_path / "data", migration(sides), option, str(busy), env={})
    assert await refused.ended() == 1
    said = refused.output.read_text()
    assert f"port {busy} on 127.0.0.1 is in use by " in said
    assert f"(pid {os.getpid()})" in said
    assert not (tmp_path / "data" / "runtime.json").exists()


async def test_every_mistake_of_a_file_is_told_and_nothing_starts(tmp_path: Path, sides: Sides) -> None:
    content = {**migration(sides), "surprise": 1, "trusted_proxies": ["nonsense"]}
    refused = start(tmp_path / "data", content, env={})
    assert await refused.ended() == 1
    said = refused.output.read_text()
    assert "surprise" in said
    assert "trusted_proxies" in said
    assert not (tmp_path / "data").exists()


async def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path, sides: Sides) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    refused = start(tmp_path / "data", migration(sides), env={})
    assert await refused.ended() == 1
    assert f"is open to others; chmod 700 {tmp_path / 'data'}" in refused.output.read_text()


async def test_a_redis_that_does_not_start_is_heard(tmp_path: Path, sides: Sides) -> None:
    content = live(migration(sides), 50)
    async with running_up(tmp_path / "data", content):
        pass
    appended = tmp_path / "data" / "redis" / "appendonly.aof"
    appended.write_bytes(b"*3\r\n$3\r\nSET\r\n" + b"x" * 100)
    up = start(tmp_path / "data", content, env={})
    assert await up.ended() == 1
    said = up.output.read_text()
    assert "redis does not start" in said
    assert "redis-check-aof" in said


@pytest.mark.parametrize("spoilt", ["token", "parts.json", "migration.path"])
async def test_a_directory_where_a_file_belongs_is_named(tmp_path: Path, sides: Sides, spoilt: str) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / spoilt).mkdir(mode=0o700)
    up = start(tmp_path / "data", live(migration(sides), 50), env={})
    assert await up.ended() == 1
    said = up.output.read_text()
    assert "Traceback" not in said
    assert spoilt in said


async def test_a_pipe_as_migration_file_is_refused_and_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    up = start(tmp_path / "data", tmp_path / "pipe", env={})
    assert await up.ended() == 1
    assert "is no regular file" in up.output.read_text()


async def test_a_lost_policy_says_how_to_go_on(tmp_path: Path, sides: Sides) -> None:
    content = live(migration(sides), 50)
    async with running_up(tmp_path / "data", content):
        pass
    (tmp_path / "data" / "redis" / "appendonly.aof").unlink()
    (tmp_path / "data" / "policy-shop.json").write_text("")
    up = start(tmp_path / "data", content, env={})
    try:
        await until(lambda: "policy_lost" in up.output.read_text(), "it is said")
        assert "to begin anew" in up.output.read_text()
    finally:
        up.signal(signal.SIGKILL)
        await up.ended()


async def test_a_server_that_does_not_start_is_named_and_nothing_is_left(tmp_path: Path, sides: Sides) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    refused = start(tmp_path / "data", migration(sides), env={"CROSSFADE_REDIS_SERVER": str(program)})
    assert await refused.ended() == 1
    assert "redis does not start: exit code 3" in refused.output.read_text()


async def test_a_given_secret_is_used_and_shown_to_no_part_in_its_environment(tmp_path: Path, sides: Sides) -> None:
    env = {"CROSSFADE_INTERNAL_TOKEN": "given-by-the-operator"}
    async with running_up(tmp_path / "data", migration(sides), env=env) as up:
        await ask(up)
        assert sides[Side.OLD].requests[0].field(b"crossfade-auth") == [b"given-by-the-operator"]
        for name in PARTS:
            assert "given-by-the-operator" not in shown_by(up.pids[name])
