"""The ops port of a gateway process group: `/healthz`, `/readyz`, `/metrics`. Served by the supervisor itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.small_server import SmallServer, SmallServerConfig

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CONNECTIONS: Final = 64
_OK: Final = 200
_UNAVAILABLE: Final = 503


class OpsServer(SmallServer):
    """Serves the ops port in this process."""

    def __init__(self, status: Callable[[], Mapping[str, Any]], metrics: Callable[[], bytes]) -> None:
        """Starts nothing.

        Args:
            status: Content of /readyz; its `ready` decides the status code.
            metrics: Content of /metrics.
        """
        super().__init__(
            SmallServerConfig(
                _application(status, metrics),
                connections=_CONNECTIONS,
                log_level="warning",
                timeout_graceful_shutdown=1,
            )
        )

    async def run_on(self, sock: socket.socket) -> None:
        """Serves until `should_exit` is set."""
        await self.serve(sockets=[sock])


def _application(status: Callable[[], Mapping[str, Any]], metrics: Callable[[], bytes]) -> Starlette:
    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        content = status()
        return JSONResponse(content, _OK if content["ready"] else _UNAVAILABLE)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics(), media_type=_METRICS_TYPE)

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", show_metrics)],
    )
