"""A server made of raw sockets that does exactly what its script says, misbehaviour included.

A script is a coroutine function that is given each accepted connection as a `Peer`. It runs in the loop of the test;
when it returns, the connection is closed. A script that raises fails the test when the server is left.

    async with RawUpstream(script) as server:
        ... connect to 127.0.0.1, server.port ...
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_RECEIVE_BYTES = 256 * 1024
PATIENCE_S = 30.0
"""How long a test waits for something that must happen; generous, since machines are slow and shared."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it was on the wire.

    Attributes:
        line: The request line, without its end.
        fields: Header lines, without their ends.
        body: Decoded body.
        raw: Every byte of head and body as received.
    """

    line: bytes
    fields: list[bytes]
    body: bytes
    raw: bytes

    def field(self, name: bytes) -> list[bytes]:
        """The values of a field, in order."""
        pairs = (line.split(b":", 1) for line in self.fields)
        return [value.strip() for found, value in pairs if found.lower() == name]


class Peer:
    """One accepted connection, from the server's end.

    Attributes:
        number: 0 for the first accepted connection, and so on.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        """Takes the socket over."""
        self.number = number
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._pending = b""
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether this end was not closed yet."""
        return self._is_open

    async def receive(self) -> bytes:
        """What the client sent, at least a byte; `b""` when it closed or reset the connection."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        try:
            return await self._loop.sock_recv(self._sock, _RECEIVE_BYTES)
        except ConnectionError:
            return b""

    async def receive_until(self, end: bytes) -> bytes:
        """Everything up to and including `end`.

        Raises:
            EOFError: The client closed before.
        """
        data = bytearray()
        while end not in data:
            piece = await self.receive()
            if not piece:
                raise EOFError(bytes(data))
            data += piece
        cut = data.index(end) + len(end)
        self._pending = bytes(data[cut:]) + self._pending
        return bytes(data[:cut])

    async def receive_exactly(self, count: int) -> bytes:
        """`count` bytes.

        Raises:
            EOFError: The client closed before.
        """
        data = bytearray()
        while len(data) < count:
            piece = await self.receive()
            if not piece:
                raise EOFError(bytes(data))
            data += piece
        self._pending = bytes(data[count:]) + self._pending
        return bytes(data[:count])

    async def receive_head(self) -> RawRequest:
        """The head of the next request; the body stays in the socket."""
        raw = await self.receive_until(b"\r\n\r\n")
        line, *fields = raw[:-4].split(b"\r\n")
        return RawRequest(line, fields, b"", raw)

    async def receive_request(self) -> RawRequest:
        """The next request with its body."""
        head = await self.receive_head()
        raw, body = head.raw, b""
        if head.field(b"transfer-encoding") == [b"chunked"]:
            while True:
                size_line = await self.receive_until(b"\r\n")
                size = int(size_line, 16)
                data = await self.receive_exactly(size + 2)
                raw += size_line + data
                if not size:
                    break
                body += data[:-2]
        elif lengths := head.field(b"content-length"):
            body = await self.receive_exactly(int(lengths[0]))
            raw += body
        return RawRequest(head.line, head.fields, body, raw)

    async def send(self, data: bytes) -> None:
        """Sends bytes as they are. A client that is gone is no error."""
        if not self._is_open:
            return  # the script ended because the client left; its socket answers EBADF, which is no ConnectionError
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(self._sock, data)

    def send_now(self, data: bytes) -> None:
        """Puts a few bytes into the socket without giving the loop a turn."""
        assert self._sock.send(data) == len(data)

    async def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        """Sends bytes in segments of `size`."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])

    async def wait_closed(self) -> bytes:
        """Waits until the client closed or reset the connection; returns what came before."""
        data = bytearray()
        while piece := await self.receive():
            data += piece
        return bytes(data)

    def set_receive_buffer(self, size: int) -> None:
        """Bounds what the kernel takes while the script does not read."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def finish(self) -> None:
        """Sends FIN, still able to receive."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with RST."""
        if self._is_open:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        """Closes; the kernel sends FIN, or RST when unread bytes are left."""
        self._is_open = False
        self._sock.close()


Script = Callable[[Peer], Awaitable[None]]


class RawUpstream:
    """Listens on a free loopback port, or on a unix socket.

    Attributes:
        peers: Connections accepted so far, in order.
        port: TCP port; 0 for a unix socket.
    """

    def __init__(
        self,
        script: Script,
        *,
        address: tuple[str, int] = ("127.0.0.1", 0),
        unix_path: Path | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        """Not listening yet.

        Args:
            script: Run for each connection.
            address: Loopback host and port to listen on; port 0 = a free one.
            unix_path: Listen here instead of on TCP.
            receive_buffer: Kernel receive buffer of accepted connections; small = back-pressure early.
        """
        self._address = address
        self._script = script
        self._unix_path = unix_path
        self._receive_buffer = receive_buffer
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._accepted = asyncio.Event()
        self.peers: list[Peer] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        if self._unix_path is None:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            if self._receive_buffer is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            # A test that starts a side again on its old port must not wait for TIME_WAIT.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
            self.port = listener.getsockname()[1]
        else:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self._unix_path))
        listener.listen(1024)
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if exc is None and self._failures:
            raise self._failures[0]

    async def accepted(self, count: int) -> None:
        """Waits until `count` connections have been accepted."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.peers) < count:
                self._accepted.clear()
                await self._accepted.wait()

    def stop_listening(self) -> None:
        """Refuses further connections; those that are open go on."""
        if self._listener is not None and self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    async def aclose(self) -> None:
        """Ends listening and the scripts that still run."""
        self.stop_listening()
        running = set(self._tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for peer in self.peers:
            peer.close()

    def _accept(self) -> None:
        """Takes one connection. In a callback: a task that is cancelled might lose what it has just accepted."""
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        sock.setblocking(False)
        if self._unix_path is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(sock, len(self.peers))
        self.peers.append(peer)
        task = asyncio.get_running_loop().create_task(self._serve(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._accepted.set()

    async def _serve(self, peer: Peer) -> None:
        try:
            await self._script(peer)
        except EOFError:
            pass  # the client left in mid-request; tests that mind look at what they got
        except Exception as exc:
            self._failures.append(exc)
        finally:
            peer.close()


def answer(body: bytes = b"", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A plain answer with its length."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked_answer(*chunks: bytes, trailers: bytes = b"", headers: bytes = b"") -> bytes:
    """A chunked answer; `headers` are whole lines without the last CRLF."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + (headers + b"\r\n" if headers else b"")
    return head + b"\r\n" + coded + b"0\r\n" + trailers + b"\r\n"


def replies(*sequence: bytes) -> Script:
    """A script that answers the n-th request of every connection with the n-th of `sequence`, then the last again."""

    async def script(peer: Peer) -> None:
        count = 0
        while True:
            await peer.receive_request()
            await peer.send(sequence[min(count, len(sequence) - 1)])
            count += 1

    return script


async def eventually(condition: Callable[[], bool], what: str = "condition") -> None:
    """Polls until `condition` holds.

    Raises:
        AssertionError: It did not within `PATIENCE_S`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < deadline, f"{what} did not come true in {PATIENCE_S} s"
        await asyncio.sleep(0.001)  # the one place that polls
