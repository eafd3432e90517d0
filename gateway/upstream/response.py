"""An answer as its reader sees it: a `ports.UpstreamResponse` fed by a call.

Owns the bounded buffer between the side and a slow reader. It must not know HTTP framing or pools.
"""

from __future__ import annotations

import asyncio

from gateway.core.model import Headers
from gateway.ports import InterimListener, UpstreamCall


class Response:
    """One exchange, from the sending of its request to the last byte of its answer. One reader.

    Attributes:
        status: As in `UpstreamResponse`, like the next four; meaningful once `head` is done.
        headers: Fields as received.
        length: Length of the body.
        trailers: Fields behind the body, once it was read to its end.
        instance: Who answered.
        head: Done when the head is there; fails with what ended the exchange before.
    """

    __slots__ = (
        "_buffer",
        "_buffer_limit",
        "_buffered",
        "_call",
        "_failure",
        "_interim",
        "_is_complete",
        "_loop",
        "_more",
        "head",
        "headers",
        "instance",
        "length",
        "status",
        "trailers",
    )

    def __init__(
        self, buffer_limit: int, loop: asyncio.AbstractEventLoop, interim: InterimListener | None = None
    ) -> None:
        """To be passed to `SideUpstream.send`.

        Args:
            buffer_limit: Bytes held for a slow reader before the side is read no more.
            loop: The running loop.
            interim: Takes 1xx answers.
        """
        self._interim = interim
        self._call: UpstreamCall | None = None
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
        self.trailers: Headers = []
        self.instance = ""
        self.head: asyncio.Future[None] = loop.create_future()

    def __repr__(self) -> str:
        state = "complete" if self._is_complete else "over" if self._call is None else "running"
        paused = " paused" if self._buffered >= self._buffer_limit else ""
        return f"<Response {self.instance} {self.status} {state} buffered={self._buffered}{paused}>"

    @property
    def has_reader(self) -> bool:
        """Whether a `read` is waiting now."""
        return self._more is not None

    def attach(self, call: UpstreamCall) -> None:
        """Says which call this is the answer of, right after it began."""
        self._call = call

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
        if was_full and self._call is not None:
            self._call.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Lets go of the exchange; closes the connection unless the body came to its end. Idempotent."""
        call, self._call = self._call, None
        if call is not None:
            call.abandon()
        self._is_complete = False
        self._failure = RuntimeError("read after close")
        self._buffer.clear()
        self._buffered = 0
        self._wake()

    # -- called by the connection -----------------------------------------------------------------------------------

    def interim_received(self, status: int, headers: Headers) -> None:
        """A 1xx answer."""
        if self._interim is not None:
            self._interim(status, headers)

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
        if self._buffered >= self._buffer_limit and self._call is not None:
            self._call.pause()
        self._wake()

    def answer_completed(self, trailers: Headers) -> None:
        """The end of the body."""
        self.trailers = trailers
        self._call = None
        self._is_complete = True
        self._wake()

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        """A whole answer."""
        if body:
            self._buffer.append(body)
        self.answer_completed([])
        self.head_received(status, headers, length)

    def exchange_failed(self, error: BaseException) -> None:
        """The exchange is over."""
        self._call = None
        self._failure = error
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    # ---------------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
