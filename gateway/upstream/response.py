"""An answer as its reader sees it: a `ports.UpstreamResponse` fed by a connection.

Owns the bounded buffer between the side and a slow reader. It must not know HTTP framing or pools.
"""

from __future__ import annotations

import asyncio

from gateway.core.model import Headers
from gateway.upstream.connection import Connection
from gateway.upstream.upload import Upload


class Response:
    """One exchange, from the sending of its request to the last byte of its answer. One reader.

    Attributes:
        status: As in `UpstreamResponse`, like the next three; meaningful once `head` is done.
        headers: Fields as received.
        length: Length of the body.
        instance: Who answered.
        head: Done when the head is there; fails with what ended the exchange before.
        is_stale: It failed because a kept-alive connection was dead.
        upload: The running upload of a streamed request body, if any.
    """

    __slots__ = (
        "_buffer",
        "_buffer_limit",
        "_buffered",
        "_connection",
        "_failure",
        "_is_complete",
        "_loop",
        "_more",
        "head",
        "headers",
        "instance",
        "is_stale",
        "length",
        "status",
        "upload",
    )

    def __init__(
        self, connection: Connection, instance: str, buffer_limit: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        """To be passed to `connection.start`.

        Args:
            connection: That carries the exchange.
            instance: Name of its instance.
            buffer_limit: Bytes held for a slow reader before the connection is paused.
            loop: The running loop.
        """
        self._connection: Connection | None = connection
        self._buffer_limit = buffer_limit
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._is_complete = False
        self._failure: BaseException | None = None
        self._loop = loop
        self._more: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.instance = instance
        self.head: asyncio.Future[None] = loop.create_future()
        self.is_stale = False
        self.upload: Upload | None = None

    def __repr__(self) -> str:
        state = "complete" if self._is_complete else "over" if self._connection is None else "running"
        paused = " paused" if self._buffered >= self._buffer_limit else ""
        return f"<Response {self.instance} {self.status} {state} buffered={self._buffered}{paused}>"

    @property
    def has_reader(self) -> bool:
        """Whether a `read` is waiting now."""
        return self._more is not None

    # -- for the reader ---------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """The next piece of the body; `b""` once it is complete.

        Raises:
            UpstreamError: The body ended early, was malformed or took too long; the bytes before were delivered.
        """
        while not self._buffer:
            if self._is_complete:
                return b""
            if self._failure is not None:
                raise self._failure
            if self._more is not None:
                raise RuntimeError("an answer has one reader")
            self._more = self._loop.create_future()
            try:
                await self._more
            finally:
                self._more = None
        pieces = self._buffer
        self._buffer = []
        was_full = self._buffered >= self._buffer_limit
        self._buffered = 0
        if was_full and self._connection is not None:
            self._connection.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Lets go of the exchange; closes the connection unless the body came to its end. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._is_complete = False
        self._failure = RuntimeError("read after close")
        self._buffer.clear()
        self._buffered = 0
        self._stop_upload()
        self._wake()

    # -- called by the connection -----------------------------------------------------------------------------------

    def interim_received(self, status: int, headers: Headers) -> None:
        """Swallowed: whoever wants to forward interim answers does it here."""

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:
        """The final head."""
        self.status = status
        self.headers = headers
        self.length = length
        if not self.head.done():
            self.head.set_result(None)

    def body_received(self, data: bytes) -> None:
        """A piece of the body."""
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered >= self._buffer_limit and self._connection is not None:
            self._connection.pause()
        self._wake()

    def answer_completed(self) -> None:
        """The end of the body."""
        self._connection = None
        self._is_complete = True
        self._stop_upload()
        self._wake()

    def exchange_failed(self, error: BaseException, *, is_stale: bool) -> None:
        """The exchange is over."""
        self._connection = None
        self._failure = error
        self.is_stale = is_stale
        self._stop_upload()
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    # ---------------------------------------------------------------------------------------------------------------

    def _stop_upload(self) -> None:
        if self.upload is not None:
            self.upload.stop()
            self.upload = None

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
