"""The supervisor with tiny real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.local.errors import StartError
from gateway.local.plan import CHANNEL_FD, SOCKET_FD, PartSpec
from gateway.local.sockets import bind_shared
from gateway.local.supervisor import Plan, Supervisor
from tests.support.waiting import until

PROGRAM = Path(__file__).parents[1] / "support" / "tiny_part.py"


def tiny(name: str, behaviour: str = "serve", sock: socket.socket | None = None, **more: Any) -> PartSpec:
    arguments = (sys.executable, "-I", "-S", str(PROGRAM), behaviour, CHANNEL_FD, *((SOCKET_FD,) if sock else ()))
    return PartSpec(name, arguments, {}, sock=sock, has_channel=True, **more)


@dataclass
class Scene:
    """A supervisor and what it told."""

    supervisor: Supervisor
    counters: list[Mapping[str, Any]]
    changes: list[dict[str, int]]
    seen: set[int] = field(default_factory=set)

    def pid(self, name: str) -> int:
        pid = self.supervisor.parts[name].pid
        assert pid is not None
        self.seen.add(pid)
        return pid


@asynccontextmanager
async def supervised(*stages: Sequence[PartSpec], rolling: Sequence[str] = ()) -> AsyncIterator[Scene]:
    counters: list[Mapping[str, Any]] = []
    changes: list[dict[str, int]] = []
    supervisor = Supervisor(Plan(stages, rolling, lambda: changes.append(supervisor.pids()), counters.append))
    scene = Scene(supervisor, counters, changes)
    try:
        yield scene
    finally:
        supervisor.kill_all()
        await supervisor.stop()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ready_again(scene: Scene, name: str, before: int) -> Callable[[], bool]:
    return lambda: scene.supervisor.parts[name].is_ready and scene.supervisor.parts[name].pid not in (None, before)


async def test_starting_waits_until_every_part_is_ready() -> None:
    async with supervised([tiny("low")], [tiny("high", needs=("low",))]) as scene:
        await scene.supervisor.start()
        assert scene.supervisor.is_ready
        assert scene.supervisor.pids() == {"low": scene.pid("low"), "high": scene.pid("high")}


async def test_a_part_waits_for_those_that_it_needs() -> None:
    async with supervised([tiny("low")], [tiny("high", needs=("low",))]) as scene:
        await scene.supervisor.start()
        assert [sorted(change) for change in scene.changes] == [["low"], ["high", "low"]]


async def test_a_killed_part_is_started_again() -> None:
    async with supervised([tiny("part")]) as scene:
        await scene.supervisor.start()
        before = scene.pid("part")
        os.kill(before, signal.SIGKILL)
        await until(ready_again(scene, "part", before), "the part is ready again")
        status = scene.supervisor.status()["part"]
        assert (status["restarts"], status["failures"], status["last_end"]) == (1, 1, "signal SIGKILL")
        assert scene.changes[-1]["part"] == scene.pid("part")


async def test_what_a_part_says_last_is_heard() -> None:
    async with supervised([tiny("part")]) as scene:
        await scene.supervisor.start()
        before = scene.pid("part")
        scene.supervisor.parts["part"].stop(linger=True)
        await scene.supervisor.parts["part"].until(lambda part: part.is_stopped)
        assert {"worker": "tiny", "last": before} in scene.counters


async def test_a_part_that_ends_again_and_again_stops_the_start_and_is_named() -> None:
    async with supervised([tiny("good")], [tiny("bad", "crash")]) as scene:
        with pytest.raises(StartError, match="bad does not start: exit code 7"):
            await scene.supervisor.start()


async def test_a_program_that_does_not_exist_stops_the_start() -> None:
    async with supervised([PartSpec("absent", ("/nonexistent/program",), {}, has_channel=True)]) as scene:
        with pytest.raises(StartError, match="absent does not start: it cannot be started: No such file"):
            await scene.supervisor.start()


async def test_a_part_that_is_not_ready_in_time_is_killed_and_started_again() -> None:
    async with supervised([tiny("mute", "mute", start_limit_s=0.2)]) as scene:
        with pytest.raises(StartError, match="mute does not start: signal SIGKILL"):
            await scene.supervisor.start()


async def test_a_crash_loop_backs_off_and_shows(tmp_path: Path) -> None:
    flag = tmp_path / "crash"
    async with supervised([tiny("part", f"crash_if:{flag}")]) as scene:
        await scene.supervisor.start()
        flag.touch()
        os.kill(scene.pid("part"), signal.SIGKILL)
        await until(lambda: scene.supervisor.status()["part"]["failures"] >= 3, "failures in a row")
        assert not scene.supervisor.is_ready
        flag.unlink()
        await until(lambda: scene.supervisor.is_ready, "it recovers")


async def test_stopping_leaves_nothing_even_of_a_part_that_does_not_listen() -> None:
    async with supervised([tiny("deaf", "deaf", stop_limit_s=0.2)], [tiny("good")]) as scene:
        await scene.supervisor.start()
        pids = [scene.pid("deaf"), scene.pid("good")]
        await scene.supervisor.stop()
        assert not any(map(is_alive, pids))


async def test_parts_stop_from_the_top() -> None:
    async with supervised([tiny("low")], [tiny("high")]) as scene:
        await scene.supervisor.start()
        low = scene.supervisor.parts["low"]
        stopping = asyncio.create_task(scene.supervisor.stop())
        await scene.supervisor.parts["high"].until(lambda part: part.state.value == "stopping")
        assert low.is_ready
        await stopping
        assert low.is_stopped


async def test_a_stop_during_the_start_leaves_nothing() -> None:
    async with supervised([tiny("mute", "mute")]) as scene:
        starting = asyncio.create_task(scene.supervisor.start())
        await until(lambda: scene.supervisor.parts["mute"].pid is not None, "the process runs")
        pid = scene.pid("mute")
        starting.cancel()
        await scene.supervisor.stop()
        assert not is_alive(pid)


async def test_a_reload_reaches_every_part_with_a_channel() -> None:
    async with supervised([tiny("one"), tiny("two")]) as scene:
        await scene.supervisor.start()
        pids = {scene.pid("one"), scene.pid("two")}
        assert sorted(scene.supervisor.send({"type": "reload"})) == ["one", "two"]
        await until(lambda: {blob.get("reloaded") for blob in scene.counters} >= pids, "both reload")


async def test_a_rolling_restart_replaces_each_worker_and_refuses_no_connection() -> None:
    sockets = bind_shared("127.0.0.1", 0, 2)
    port = sockets[0].getsockname()[1]
    workers = [tiny(f"gateway-{slot}", sock=sock) for slot, sock in enumerate(sockets)]
    async with supervised([tiny("other")], workers, rolling=["gateway-0", "gateway-1"]) as scene:
        await scene.supervisor.start()
        before = scene.supervisor.pids()
        restarting = asyncio.create_task(scene.supervisor.restart())
        answered = set()
        while not restarting.done():
            answered.add(await _ask(port))
        assert restarting.result() is None
        after = scene.supervisor.pids()
        assert after["other"] == before["other"]
        assert {after["gateway-0"], after["gateway-1"]}.isdisjoint(before.values())
        assert b"" not in answered
    for sock in sockets:
        sock.close()


async def test_a_worker_whose_successor_does_not_start_stays(tmp_path: Path) -> None:
    flag = tmp_path / "crash"
    async with supervised([tiny("gateway-0", f"crash_if:{flag}")], rolling=["gateway-0"]) as scene:
        await scene.supervisor.start()
        before = scene.pid("gateway-0")
        flag.touch()
        why = await scene.supervisor.restart()
        assert why == "gateway-0 stays as it was, its successor does not start: exit code 7"
        assert scene.pid("gateway-0") == before
        assert scene.supervisor.is_ready


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()
