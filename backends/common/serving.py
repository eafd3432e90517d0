"""A service as a process: its surroundings from the environment, its server, its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from backends.common.authority import InternalToken
from backends.common.concealment import conceal
from backends.common.credential import Credential
from backends.common.dispatch import Dispatcher
from backends.common.errors import ServiceError
from backends.common.inventory_surface import inventory_routes
from backends.common.local_provider import LocalProvider
from backends.common.mcp_surface import mcp_app, refusing_route
from backends.common.remotes import RemoteRules
from backends.common.rest_surface import http_problem, rest_routes
from backends.common.sandbox import SandboxProvider
from backends.common.service import GitService

GRACE_S: Final = 8.0
"""Less than a supervisor or a container engine waits before it kills: what must be killed is killed and noted here."""
FAILED: Final = 1
USAGE: Final = 2
_ROOT_HOME: Final = Path("/var/lib/crossfade")
_DIGEST_CHARACTERS: Final = 12

_log = structlog.get_logger("crossfade.service")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service is put together from.

    Attributes:
        data_dir: Its own.
        provider: Of sandboxes.
        rules: Which remotes may be used.
    """

    data_dir: Path
    provider: SandboxProvider
    rules: RemoteRules


def serve(name: str, build: Callable[[Surroundings], GitService]) -> int:
    """Runs a service until SIGTERM or SIGINT, or until the pipe in `CROSSFADE_LIFELINE_FD` ends.

    Args:
        name: Of the service.
        build: Puts it together.

    Returns:
        The exit code.
    """
    conceal()
    parser = argparse.ArgumentParser(prog=name)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="TCP port on --host; 0 = a free one, which is logged")
    where.add_argument("--fd", type=int, help="an inherited socket that is bound")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    configure_logs(name)
    try:
        token = InternalToken.take(os.environ)
        longest_s = _seconds(os.environ, "CROSSFADE_LONGEST_OPERATION_S")
        grace_s = _seconds(os.environ, "CROSSFADE_SHUTDOWN_GRACE_S") or GRACE_S
        around = surroundings(name, options.data_dir, os.environ)
        service = build(around)
        sock = socket.socket(fileno=options.fd) if options.fd is not None else _bind(options.host, options.port)
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"{name}: {exc}\n")
        return FAILED
    return asyncio.run(_run(Dispatcher(service, token, longest_s), sock, os.environ, grace_s))


def surroundings(name: str, data_dir: Path, env: MutableMapping[str, str]) -> Surroundings:
    """Reads the surroundings of a service from its environment.

    Raises:
        ValueError: Something that is asked for does not exist.
        OSError: A directory cannot be used.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    rules = RemoteRules.from_text(
        env.get("CROSSFADE_ALLOWED_LOCAL_REMOTES", ""), env.get("CROSSFADE_ALLOWED_REMOTES", ""), Credential.take(env)
    )
    return Surroundings(data_dir, _provider(name, data_dir, env), rules)


def _provider(name: str, data_dir: Path, env: MutableMapping[str, str]) -> SandboxProvider:
    kind = env.get("CROSSFADE_SANDBOX_PROVIDER") or "local"
    is_logged = _switch(env, "CROSSFADE_SANDBOX_WRITERS_LOG")
    if kind == "local":
        # Who locks in Redis does so because there may be others.
        is_shared = bool(env.get("CROSSFADE_REDIS_URL"))
        return LocalProvider(sandbox_root(name, data_dir, env), is_shared=is_shared, is_logged=is_logged)
    if kind == "e2b":
        # Here, not above: the SDK takes half a second to load.
        from backends.common.e2b_settings import e2b_provider

        return e2b_provider(name, env, is_logged=is_logged)
    raise ValueError(f"CROSSFADE_SANDBOX_PROVIDER={kind} is none of local, e2b")


def sandbox_root(name: str, data_dir: Path, env: Mapping[str, str]) -> Path:
    """Where local sandboxes lie.

    As root each has a user of its own, who must be able to reach it; the data directory is closed to others, so the
    sandboxes then have a place apart, one for each data directory.
    """
    chosen = env.get("CROSSFADE_SANDBOX_ROOT")
    if chosen:
        return Path(chosen).absolute() / name
    if os.geteuid() == 0:
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:_DIGEST_CHARACTERS]
        return _ROOT_HOME / f"{digest}-{name}"
    return data_dir / "sandboxes"


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "false"
    if text not in ("true", "false"):
        raise ValueError(f"{name}={text} is none of true, false")
    return text == "true"


def _seconds(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={text} is no number of seconds above 0")
    return value


def build_app(dispatcher: Dispatcher, allowed_hosts: list[str]) -> Starlette:
    """Both surfaces of a service."""
    mcp = mcp_app(dispatcher, allowed_hosts)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with mcp.router.lifespan_context(app):
            yield

    return Starlette(
        routes=[*rest_routes(dispatcher), *inventory_routes(dispatcher), refusing_route(), *mcp.routes],
        exception_handlers={HTTPException: http_problem},
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them once more at its end, before we have cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Captures none."""
        yield


async def _run(dispatcher: Dispatcher, sock: socket.socket, env: Mapping[str, str], grace_s: float) -> int:
    service = dispatcher.service
    hosts = [host.strip() for host in env.get("CROSSFADE_ALLOWED_HOSTS", "").split(",") if host.strip()]
    config = uvicorn.Config(
        build_app(dispatcher, hosts),
        lifespan="on",
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=grace_s,  # type: ignore[arg-type]  # handed to asyncio.wait_for, which takes fractions
        # Longer than the gateway keeps an idle connection: the side that closes should be the one that knows.
        timeout_keep_alive=75,
    )
    _watch_lifeline(env.get("CROSSFADE_LIFELINE_FD"))
    server = _Server(config)
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, server.handle_exit, sign, None)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    starting = asyncio.create_task(service.start())
    try:
        # It serves `/readyz` meanwhile, and may be asked to end.
        await asyncio.wait([starting, serving], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _log.info("service_ready", service=service.name, port=sock.getsockname()[1])
        await serving
    except ServiceError as exc:
        _log.error("service_not_started", service=service.name, why=exc.message)
        server.should_exit = True
        await serving
        return FAILED
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await dispatcher.aclose()
        await service.aclose()
    return 0


def _watch_lifeline(text: str | None) -> None:
    """Ends the process when the pipe from whoever started it ends. Its commands end with it."""
    if text and text.isdecimal():
        asyncio.get_running_loop().add_reader(int(text), lambda: os._exit(FAILED))


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def configure_logs(part: str) -> None:
    """Structured logs on standard error, one JSON object on a line."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(part=part)
