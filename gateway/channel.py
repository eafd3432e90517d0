"""The channel between the supervisor and one of its processes: JSON documents, one on a line, over a socket pair.

It is a lifeline too: when the supervisor dies, however it dies, the channel ends, and with it the process.

Process to supervisor: `{"type": "ready"}` once; `{"type": "counters", "counters": {…}}` on a timer.
Supervisor to process: `{"type": "reload"}`; `{"type": "drain", "linger": true}`.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

LINE_LIMIT_BYTES: Final = 4 << 20
_BACKLOG_BYTES: Final = 8 << 20

Message = dict[str, Any]


class Channel:
    """One end. Make it with `open_channel`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> bool:
        """Sends without waiting. False when it was dropped: the other end is gone, or has not read for long."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > _BACKLOG_BYTES:
            return False
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        return True

    async def messages(self) -> AsyncIterator[Message]:
        """What the other end says, until it is gone. Lines that are no JSON object are skipped."""
        while True:
            try:
                line = await self._reader.readline()
            except (ConnectionError, ValueError):
                return
            if not line.endswith(b"\n"):
                return
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                yield message

    def close(self) -> None:
        """Closes this end."""
        self._writer.close()


async def open_channel(end: socket.socket | int) -> Channel:
    """Takes over one end of a socket pair.

    Args:
        end: The socket, or an inherited file descriptor.
    """
    sock = socket.socket(fileno=end) if isinstance(end, int) else end
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_LIMIT_BYTES)
    return Channel(reader, writer)
