"""A small HTTP/1.1 client for load: few instructions for each request, any number at once, one on each connection.

A general client walks its pool for every request. Where a fault makes a thousand of them wait, that takes longer than
the requests, and the load would measure itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from gateway.core.drill import DrillRequest

_OK: Final = 200
_IDLE: Final = 64
"""Connections that are kept; more are closed when their answer is there."""


class NoAnswerError(Exception):
    """No answer came, or none in time."""


@dataclass(slots=True)
class Answered:
    """An answer.

    Attributes:
        status: Final status code.
        headers: Lower-case names.
        body: Whole.
    """

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class LoadClient:
    """Sends requests to one address."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Connects to nothing yet.

        Args:
            url: `http://host:port` or `https://host:port`.
            timeout_s: Longest time for an exchange, connecting included.
        """
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._authority = parts.netloc
        self._tls = _unverified() if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []

    async def ask(self, request: DrillRequest, more: Mapping[str, str] | None = None) -> Answered:
        """Sends a request.

        Args:
            request: What to send.
            more: Further header fields.

        Raises:
            NoAnswerError: No answer came in time.
        """
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = self._take_idle() or await self._connect()
                answered = await connection.ask(_written(request, self._authority, more or {}))
        except (OSError, TimeoutError, httptools.HttpParserError) as exc:
            if connection is not None:
                connection.close()
            raise NoAnswerError(str(exc) or type(exc).__name__) from exc
        except asyncio.CancelledError:
            if connection is not None:
                connection.close()
            raise
        if connection.is_open and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answered

    def close(self) -> None:
        """Closes what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, self._host, self._port, ssl=self._tls
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answered] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answered = Answered()

    async def ask(self, data: bytes) -> Answered:
        assert self._transport is not None
        if not self.is_open:
            raise ConnectionError("the connection was closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._waiting

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own is no subclass.
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(exc)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(ConnectionError(str(exc or "the connection was closed")))

    def _fail(self, exc: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc)

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._answered = Answered()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answered.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._answered.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._answered.body += data

    def on_message_complete(self) -> None:
        if self._answered.status < _OK:
            return
        if not self._parser.should_keep_alive():
            self.is_open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answered)


def _written(request: DrillRequest, authority: str, more: Mapping[str, str]) -> bytes:
    fields = {"host": authority, **request.headers, **more}
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        fields["content-length"] = str(len(request.body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{request.method} {request.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body


def _unverified() -> ssl.SSLContext:
    """For its own data port, as the worker itself has named it: the name in a certificate is that of the clients."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with suppress(NotImplementedError):
        context.set_alpn_protocols(["http/1.1"])
    return context
