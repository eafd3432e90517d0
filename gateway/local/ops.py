"""The ops port of a gateway process group: `/healthz`, `/readyz`, `/metrics`. Served by the supervisor itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CONNECTIONS: Final = 64
_OK: Final = 200
_UNAVAILABLE: Final = 503


class OpsServer(uvicorn.Server):
    """Serves the ops port in this process. Signals are the supervisor's business, not uvicorn's."""

    def __init__(self, status: Callable[[], Mapping[str, Any]], metrics: Callable[[], bytes]) -> None:
        """Starts nothing.

        Args:
            status: Content of /readyz; its `ready` decides the status code.
            metrics: Content of /metrics.
        """
        super().__init__(
            uvicorn.Config(
                _application(status, metrics),
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )

    async def run_on(self, sock: socket.socket) -> None:
        """Serves until `should_exit` is set."""
        await self.serve(sockets=[sock])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


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
