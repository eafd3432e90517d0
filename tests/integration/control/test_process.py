from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from gateway.channel import Channel, open_channel
from tests.support.control import migration, prepare
from tests.support.redis_process import running_redis
from tests.support.waiting import until, until_async
from tests.support.worker import ROOT, bound_socket


@dataclass
class ControlProcess:
    """The control process and the supervisor's end of its channel."""

    process: subprocess.Popen[bytes]
    channel: Channel
    url: str
    token: str
    errors: Path

    async def ended(self) -> int:
        """Waits for the end; the exit code."""
        await until(lambda: self.process.poll() is not None, "control ends", 30)
        code = self.process.returncode
        assert code is not None
        return code

    async def ready(self) -> None:
        """Waits until it says so."""
        async with asyncio.timeout(30):
            async for message in self.channel.messages():
                if message == {"type": "ready"}:
                    return
        raise AssertionError(self.errors.read_text())


@asynccontextmanager
async def control(data_dir: Path, *, host: str = "127.0.0.1", insecure: bool = False) -> AsyncIterator[ControlProcess]:
    with running_redis() as redis:
        parts = replace(prepare(data_dir, redis.url, migration()), settings={"insecure_control": insecure})
        parts.write(data_dir / "parts.json")
        sock = bound_socket() if host == "127.0.0.1" else socket.create_server((host, 0))
        ours, theirs = socket.socketpair()
        errors = data_dir / "stderr"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(  # noqa: ASYNC220 - starting takes a millisecond, and the pid is wanted
                [
                    *(sys.executable, "-m", "gateway.control_process", "--parts", str(data_dir / "parts.json")),
                    *("--fd", str(sock.fileno()), "--channel-fd", str(theirs.fileno())),
                ],
                pass_fds=(sock.fileno(), theirs.fileno()),
                cwd=ROOT,
                stderr=stderr,
                start_new_session=True,
            )
        theirs.close()
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        sock.close()
        token = (data_dir / "token").read_text()
        running = ControlProcess(process, await open_channel(ours), url, token, errors)
        try:
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            running.channel.close()


async def test_it_is_ready_when_its_token_works(tmp_path: Path) -> None:
    async with control(tmp_path) as running:
        await running.ready()
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
            answer = await client.get("/v1/status", headers={"Authorization": f"Bearer {running.token}"})
            assert (answer.status_code, answer.json()["epoch"]) == (200, 1)
            assert "server" not in answer.headers
            huge = await client.get("/healthz", headers={"X-Huge": "a" * 100_000})
            assert huge.status_code in (400, 431)
        assert running.token not in running.errors.read_text()


@pytest.mark.parametrize("how", ["drain", "sigterm"])
async def test_it_ends_clean_when_told(tmp_path: Path, how: str) -> None:
    async with control(tmp_path) as running:
        await running.ready()
        if how == "drain":
            running.channel.send({"type": "drain", "linger": False})
        else:
            os.kill(running.process.pid, signal.SIGTERM)
        assert await running.ended() == 0


async def test_it_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    async with control(tmp_path) as running:
        await running.ready()
        running.channel.close()
        assert await running.ended() == 1


async def test_ctrl_c_in_the_terminal_is_the_supervisors_business(tmp_path: Path) -> None:
    async with control(tmp_path) as running:
        await running.ready()
        os.kill(running.process.pid, signal.SIGINT)
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
            assert (await client.get("/readyz")).status_code == 200


async def test_tokens_do_not_leave_this_machine_in_the_clear_unless_somebody_said_so(tmp_path: Path) -> None:
    async with control(tmp_path, host="0.0.0.0") as running:
        assert await running.ended() == 1
        assert "--insecure-control" in running.errors.read_text()
    (tmp_path / "parts.json").unlink()
    (tmp_path / "policy-git.json").unlink(missing_ok=True)
    async with control(tmp_path, host="0.0.0.0", insecure=True) as running:
        await running.ready()


async def test_a_reload_reads_the_file_again(tmp_path: Path) -> None:
    async with control(tmp_path) as running:
        await running.ready()
        headers = {"Authorization": f"Bearer {running.token}"}
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30, headers=headers) as client:
            before = (await client.get("/v1/status")).json()["definition"]
            file = tmp_path / "migration.yaml"
            file.write_text(file.read_text().replace('"class": "read"', '"deadline_s": 5, "class": "read"'))
            running.channel.send({"type": "reload"})

            async def changed() -> bool:
                return bool((await client.get("/v1/status")).json()["definition"] != before)

            await until_async(changed, "the file is read")
            file.write_text("{")
            running.channel.send({"type": "reload"})
            await until(lambda: "definition_refused" in running.errors.read_text(), "the file is refused")
            assert (await client.get("/v1/status")).json()["definition"] != before
