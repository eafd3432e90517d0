"""Whether a part that has no channel is ready: one short question over its own socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.local.plan import Probe

_LIMIT_S: Final = 2.0
_ANSWER_BYTES: Final = 256
_LINES: Final = 2
"""Enough of an answer: a status line and a field, or two replies."""

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def http_probe(sock: socket.socket, path: str = "/readyz") -> Probe:
    """Asks a service; ready when it answers 200.

    Args:
        sock: The socket on which it listens.
        path: What is asked.
    """
    host, port = sock.getsockname()[:2]
    question = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode()

    async def probe() -> bool:
        answer = await _ask(lambda: asyncio.open_connection(host, port), question)
        return answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))

    return probe


def redis_probe(socket_path: Path, password_file: Path) -> Probe:
    """Asks a Redis server; ready when it has loaded its data.

    Raises:
        OSError: The password cannot be read.
    """
    password = password_file.read_bytes().strip()
    question = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n*1\r\n$4\r\nPING\r\n" % (len(password), password)

    async def probe() -> bool:
        answer = await _ask(lambda: asyncio.open_unix_connection(str(socket_path)), question)
        return answer.startswith(b"+OK\r\n+PONG\r\n")

    return probe


async def _ask(connect: Callable[[], Awaitable[_Streams]], question: bytes) -> bytes:
    """The beginning of the answer; empty when there is none."""
    writer: asyncio.StreamWriter | None = None
    answer = b""
    try:
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await connect()
            writer.write(question)
            while answer.count(b"\r\n") < _LINES and (piece := await reader.read(_ANSWER_BYTES)):
                answer += piece
    except (OSError, TimeoutError):
        return b""
    finally:
        if writer is not None:
            writer.close()
    return answer
