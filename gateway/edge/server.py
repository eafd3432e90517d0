"""One worker's server: uvicorn's accept loop and protocol set-up, with a drain that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import uvicorn

from gateway.edge.listener import EdgeConfig, Listener

_POLL_S: Final = 0.05
_TLS_GOODBYE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """How a worker leaves.

    Attributes:
        grace_s: Longest wait for answers under way; then they are cut.
        linger_s: How long idle connections may still ask once, when a successor has taken over.
    """

    grace_s: float = 30.0
    linger_s: float = 5.0


class EdgeServer(uvicorn.Server):
    """Serves the data port until told to drain.

    Signals are the worker's business, not uvicorn's.
    """

    config: EdgeConfig

    def __init__(self, config: EdgeConfig, drain: DrainSettings) -> None:
        super().__init__(config)
        self.servers = []
        self.listener: Listener = config.listener
        self._drain = drain
        self._linger_s = 0.0
        self._told_to_drain = asyncio.Event()

    def drain(self, *, linger: bool) -> None:
        """Stops accepting and ends every connection after its answer.

        Args:
            linger: A successor accepts on the same socket; idle clients get time to ask once more here.
        """
        self._linger_s = self._drain.linger_s if linger else 0.0
        self.should_exit = True
        self._told_to_drain.set()

    async def main_loop(self) -> None:
        """Waits for the drain; the listener's sweep does what uvicorn's ticks would."""
        await self._told_to_drain.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept."""
        config, loop = self.config, asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if config.tls is not None:
            # Until its handshake is over a connection is not the listener's to bound.
            tls = {
                "ssl": config.tls,
                "ssl_handshake_timeout": self.listener.limits.header_timeout_s,
                "ssl_shutdown_timeout": _TLS_GOODBYE_S,
            }

        def make() -> asyncio.Protocol:
            return config.http_protocol_class(config, self.server_state, {}, loop)  # type: ignore[call-arg]  # uvicorn's

        for sock in sockets or []:
            self.servers.append(await loop.create_server(make, sock=sock, backlog=config.backlog, **tls))
        self.started = True
        self.listener.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains."""
        for server in self.servers:
            server.close()
        for held in sockets or []:
            held.close()
        self.listener.drain(self._linger_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(self._drain.grace_s, self._linger_s)
        while (self.listener.connections or self.server_state.tasks) and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody when a task ends
            await asyncio.sleep(_POLL_S)
        for connection in tuple(self.listener.connections):
            connection.abort()
        for task in tuple(self.server_state.tasks):
            task.cancel()
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)
        self.listener.stop()
