"""A real Redis of our own: a child process on a unix socket that only this user can reach."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.local.data_dir import DataDir
from gateway.local.errors import StartError

_SOCKET_PATH_LIMIT: Final = 100
"""sun_path takes 107 bytes; some are left for what a client adds."""
_CLOSED: Final = ("FLUSHALL", "FLUSHDB", "DEBUG", "CONFIG", "MODULE", "REPLICAOF", "SLAVEOF", "MIGRATE")
"""Commands that would lose the policy, or lead out of the sandbox that a data store is."""
_PROGRAMS: Final = ("redis-server", "valkey-server")
_NO_SERVER: Final = (
    "no Redis server was found. Three ways out: install redis-server or valkey-server so that it is on PATH; name one "
    "in CROSSFADE_REDIS_SERVER; or set redis_url in config/gateway.yaml (or CROSSFADE_REDIS_URL) to a server that runs"
)


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """A Redis that is ready to be started.

    Attributes:
        command: Program and arguments; no secret among them.
        socket_path: Where it will listen.
        password_file: Its password, 0600.
        log_file: What it says.
        own_directory: Directory of the socket when it stands outside the data directory, else None.
    """

    command: tuple[str, ...]
    socket_path: Path
    password_file: Path
    log_file: Path
    own_directory: Path | None

    @property
    def url(self) -> str:
        """For clients; the password is in its file."""
        return f"unix://{self.socket_path}"

    def clean_up(self) -> None:
        """Removes what a stopped server leaves outside the data directory."""
        if self.own_directory is not None:
            shutil.rmtree(self.own_directory, ignore_errors=True)


def prepare_redis(data_dir: DataDir, env: Mapping[str, str]) -> EmbeddedRedis:
    """Writes the configuration of the server.

    Raises:
        StartError: There is no server to be found, or its directory cannot be used.
    """
    server = find_server(env)
    home = data_dir.subdirectory("redis")
    password_file = data_dir.secret("redis.password")
    socket_path, own = home / "redis.sock", None
    if len(os.fsencode(socket_path)) > _SOCKET_PATH_LIMIT:
        own = Path(tempfile.mkdtemp(prefix="crossfade-"))
        socket_path = own / "redis.sock"
    log = home / "redis.log"
    lines = [
        "port 0",
        f"unixsocket {_quoted(str(socket_path))}",
        "unixsocketperm 700",
        f"dir {_quoted(str(home))}",
        f"logfile {_quoted(str(log))}",
        "loglevel warning",
        "daemonize no",
        f"requirepass {_quoted(password_file.read_text().strip())}",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        *(f'rename-command {command} ""' for command in _CLOSED),
    ]
    # The log would grow for ever; that of the run before is kept.
    if log.exists():
        log.replace(log.with_name("redis.log.old"))
    config = data_dir.write("redis/redis.conf", "\n".join(lines) + "\n")
    return EmbeddedRedis((server, str(config)), socket_path, password_file, log, own)


def find_server(env: Mapping[str, str]) -> str:
    """The server program: the one named, one on PATH, the one that came with the installation.

    Raises:
        StartError: There is none.
    """
    named = env.get("CROSSFADE_REDIS_SERVER")
    if named:
        found = shutil.which(named, path=env.get("PATH"))
        if found is None:
            raise StartError(f"CROSSFADE_REDIS_SERVER names {named}, which is no program")
        return found
    for program in _PROGRAMS:
        found = shutil.which(program, path=env.get("PATH"))
        if found is not None:
            return found
    for program in _PROGRAMS:
        beside = Path(sys.executable).parent / program
        if beside.is_file() and beside.stat().st_mode & stat.S_IXUSR:
            return str(beside)
    raise StartError(_NO_SERVER)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
