"""A real Redis server for tests: its own process, directory and unix socket."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_LIMIT_S = 20.0


class RedisProcess:
    """A server that can be killed, frozen and started again on the same data."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.socket_path = directory / "r.sock"
        self.url = f"unix://{self.socket_path}"
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts and waits until it answers PING."""
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "redis-server"),
                *("--port", "0", "--unixsocket", str(self.socket_path), "--dir", str(self._directory)),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)

    def kill(self) -> None:
        """Ends it at once, as kill -9 or a power cut of the process would."""
        assert self._process is not None
        self.resume()
        self._process.kill()
        self._process.wait()
        self.socket_path.unlink(missing_ok=True)

    def freeze(self) -> None:
        """It accepts connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a freeze."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def forget_everything(self) -> None:
        """Kills it and starts it without its data."""
        self.kill()
        for path in self._directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
            except OSError:
                return False


@contextmanager
def running_redis(*options: str) -> Iterator[RedisProcess]:
    """A server in a short temporary directory (a socket's path may not exceed 107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="cf-redis-") as directory:
        process = RedisProcess(Path(directory), *options)
        process.start()
        try:
            yield process
        finally:
            process.stop()
