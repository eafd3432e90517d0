"""Secrets of a service's environment, and processes of the same user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.services import SERVICES
from tests.support.waiting import until

SECRET = "canary-of-the-environment"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")


def plain() -> list[str]:
    """What makes root like anybody else: without capabilities, two processes of one user are equal."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and there is no setpriv here")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def environ_of(pid: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*plain(), "cat", f"/proc/{pid}/environ"], capture_output=True, check=False)


@contextmanager
def running(*argv: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([*plain(), *argv], env={**env, "CROSSFADE_INTERNAL_TOKEN": SECRET, **more})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@linux_only
@pytest.mark.parametrize("name", SERVICES)
async def test_a_process_of_the_same_user_cannot_read_them(name: str, tmp_path: Path) -> None:
    with running("sleep", "60") as other:
        await until(lambda: SECRET.encode() in environ_of(other.pid).stdout, "what hides nothing can be read")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    serving = (sys.executable, "-m", f"backends.{name}", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    with running(*serving, CROSSFADE_SANDBOX_ROOT=str(tmp_path / "sandboxes")) as service:

        def lives() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            except httpx.TransportError:
                assert service.poll() is None
                return False

        await until(lives, "the service serves", limit_s=60)
        read = environ_of(service.pid)
    assert read.returncode != 0
    assert SECRET.encode() not in read.stdout
