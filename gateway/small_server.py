"""The server of control and of the ops port: uvicorn, with a bound on clients that hold connections and say nothing.

uvicorn waits for ever for the head of a first request, and answers 503 to everybody once its bound of connections is
reached: whoever can open connections could lock operators out without a token. Here a head has ten seconds, and where
the connections run out, the one that has been waiting longest without a request makes room. The data port has a
protocol of its own, `edge.protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_S: Final = 10.0
_HEAD_BYTES: Final = 16 * 1024
_OVERLOADED_BODY: Final = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"code":"overloaded",'
    b'"detail":"too many requests are being answered; try again","retryable":true}'
)
_OVERLOADED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_OVERLOADED_BODY), _OVERLOADED_BODY)
)


class SmallServerConfig(uvicorn.Config):
    """uvicorn's configuration for a small server.

    Args:
        app: The ASGI application.
        connections: Most connections at once.
        head_s: How long the head of a request may take.
        head_bytes: How long it may be; one of less than twice as much may pass.
    """

    def __init__(
        self,
        app: Any,  # noqa: ANN401 - as uvicorn's
        *,
        connections: int,
        head_s: float = _HEAD_S,
        head_bytes: int = _HEAD_BYTES,
        **more: Any,  # noqa: ANN401 - as uvicorn's
    ) -> None:
        super().__init__(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            h11_max_incomplete_event_size=head_bytes,
            server_header=False,
            proxy_headers=False,
            **more,
        )
        self.most_connections = connections
        self.head_s = head_s
        self.head_bytes = head_bytes
        self.waiting: dict[_Connection, None] = {}
        """Connections without a request, the one that has waited longest first."""


class SmallServer(uvicorn.Server):
    """Serves until `should_exit` is set. Signals are the process's business, not uvicorn's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


class _Connection(H11Protocol):
    config: SmallServerConfig

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 - as uvicorn's
        super().__init__(*args, **more)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        config = self.config
        if len(self.connections) > config.most_connections:
            longest = next(iter(config.waiting), None)
            if longest is None:
                transport.write(_OVERLOADED)
                transport.close()
                return
            longest.transport.abort()
            config.waiting.pop(longest, None)
        config.waiting[self] = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # In slices: h11 holds a head that is complete at once to no bound.
        size = self.config.head_bytes
        for start in range(0, len(data), size):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + size])
        if self._is_busy:
            self._expect_nothing()
        elif self._late is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_busy and not self.transport.is_closing():
            self.config.waiting[self] = None

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(self.config.head_s, self.transport.abort)

    def _expect_nothing(self) -> None:
        self.config.waiting.pop(self, None)
        if self._late is not None:
            self._late.cancel()
            self._late = None
