"""An E2B-compatible server as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

KEY = "e2b_key_of_the_tests"


@dataclass(frozen=True)
class FakeE2B:
    """A server that runs.

    Attributes:
        url: Of both planes.
        root: Where sandboxes lie.
    """

    url: str
    root: Path

    def expire(self, sandbox_id: str) -> None:
        """Nobody has used it for as long as it lives."""
        place = f"{self.url}/sandboxes/{sandbox_id}/timeout"
        httpx.post(place, json={"timeout": 0}, headers={"X-API-KEY": KEY}).raise_for_status()

    @property
    def env(self) -> dict[str, str]:
        """For a service that shall use it."""
        return {
            "CROSSFADE_SANDBOX_PROVIDER": "e2b",
            "E2B_API_KEY": KEY,
            "E2B_API_URL": self.url,
            "E2B_SANDBOX_URL": self.url,
        }

    def trouble(self, **troubles: Any) -> None:
        """Sets what goes wrong from now on."""
        httpx.put(f"{self.url}/troubles", json=troubles).raise_for_status()

    def state(self) -> dict[str, Any]:
        """What goes wrong, how many commands began (`started`) and run (`running`), and the `last_creation`."""
        found: dict[str, Any] = httpx.get(f"{self.url}/troubles").json()
        return found

    def cut(self) -> None:
        """Breaks the connections of running commands, which go on."""
        httpx.post(f"{self.url}/troubles/cut").raise_for_status()

    def let_go(self) -> None:
        """Lets held commands begin."""
        httpx.post(f"{self.url}/troubles/let-go").raise_for_status()

    def sandboxes(self) -> list[dict[str, Any]]:
        """Those that live."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/v2/sandboxes", headers={"X-API-KEY": KEY}).json()
        return found

    def kill(self, sandbox_id: str) -> None:
        """Ends one, as its time to live would."""
        httpx.delete(f"{self.url}/sandboxes/{sandbox_id}", headers={"X-API-KEY": KEY}).raise_for_status()


@contextmanager
def running_fake_e2b(root: Path, path: str = "") -> Iterator[FakeE2B]:
    """A server until the block ends; `path` = the PATH of its sandboxes, where that is not the test's."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = "http://{}:{}".format(*sock.getsockname())
        process = subprocess.Popen(
            [sys.executable, "-m", "backends.common.fake_e2b", "--fd", str(sock.fileno()), "--root", str(root)],
            env={
                **os.environ,
                **({"PATH": path} if path else {}),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            pass_fds=[sock.fileno()],
            stderr=subprocess.DEVNULL,
        )
    server = FakeE2B(url, root)
    try:
        # The socket listens already: who asks waits until it is served.
        httpx.get(f"{url}/v2/sandboxes", timeout=60)
        yield server
    finally:
        process.terminate()
        process.wait(20)
