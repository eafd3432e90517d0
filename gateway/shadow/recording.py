"""Answers kept whole, within bounds: the one that a client gets, and those to copies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.core.compare.answers import Answer
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Headers
from gateway.ports import Upstream, UpstreamCall, UpstreamRequest

OVERHEAD_BYTES: Final = 2048
"""What an answer takes besides its body, roughly."""


class Recording:
    """Keeps the answer to a read as it passes. Implements `ports.Witness`."""

    __slots__ = ("_done", "_headers", "_is_over", "_limit", "_lost", "_pieces", "_size", "_status")

    def __init__(self, limit: int, done: Callable[[Answer], None], lost: Callable[[Unmirrored], None]) -> None:
        """Keeps nothing yet.

        Args:
            limit: Largest body, in bytes.
            done: Takes the whole answer.
            lost: Takes why there is none.
        """
        self._limit = limit
        self._done = done
        self._lost = lost
        self._status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_over = False

    def answer_received(self, status: int, headers: Headers, body: bytes) -> None:
        """See `ports.Witness`."""
        if len(body) > self._limit:
            self.lost(Unmirrored.TOO_LARGE)
        elif not self._is_over:
            self._is_over = True
            self._done(Answer(status, headers, body))

    def head_received(self, status: int, headers: Headers) -> None:
        """See `ports.Witness`."""
        self._status, self._headers = status, headers

    def body_received(self, data: bytes) -> None:
        """See `ports.Witness`."""
        if self._is_over:
            return
        self._size += len(data)
        if self._size > self._limit:
            self._pieces.clear()
            self.lost(Unmirrored.TOO_LARGE)
        else:
            self._pieces.append(data)

    def answer_completed(self) -> None:
        """See `ports.Witness`."""
        if not self._is_over:
            self._is_over = True
            self._done(Answer(self._status, self._headers, b"".join(self._pieces)))

    def lost(self, why: Unmirrored) -> None:
        """See `ports.Witness`."""
        if not self._is_over:
            self._is_over = True
            self._lost(why)


class Fetch:
    """Keeps the answer to a copy. Implements `ports.AnswerReceiver`.

    Attributes:
        call: The exchange; set by whoever began it.
    """

    __slots__ = ("_failed", "_recording", "call")

    def __init__(
        self, limit: int, done: Callable[[Answer], None], failed: Callable[[BaseException | None], None]
    ) -> None:
        """Keeps nothing yet.

        Args:
            limit: Largest body, in bytes.
            done: Takes the whole answer.
            failed: Takes the failure; None: the answer is too large, and was given up.
        """
        self._failed = failed
        self._recording = Recording(limit, done, self._given_up)
        self.call: UpstreamCall | None = None

    def interim_received(self, status: int, headers: Headers) -> None:
        """See `ports.AnswerReceiver`."""

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:  # noqa: ARG002 - the port's
        """See `ports.AnswerReceiver`."""
        self._recording.head_received(status, headers)

    def body_received(self, data: bytes) -> None:
        """See `ports.AnswerReceiver`."""
        self._recording.body_received(data)

    def answer_completed(self, trailers: Headers) -> None:  # noqa: ARG002 - the port's
        """See `ports.AnswerReceiver`."""
        self._recording.answer_completed()

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:  # noqa: ARG002
        """See `ports.AnswerReceiver`."""
        self._recording.answer_received(status, headers, body)

    def exchange_failed(self, error: BaseException) -> None:
        """See `ports.AnswerReceiver`."""
        self._failed(error)

    def _given_up(self, _: Unmirrored) -> None:
        if self.call is not None:
            self.call.abandon()
        self._failed(None)


class TooLargeError(Exception):
    """An answer is larger than what is compared."""


async def fetch(upstream: Upstream, request: UpstreamRequest, key: str | None, limit: int) -> Answer:
    """Sends a copy and returns its answer.

    Raises:
        UpstreamError: There is none.
        TooLargeError: It is too large.
    """
    waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(answer: Answer) -> None:
        if not waiting.done():
            waiting.set_result(answer)

    def failed(error: BaseException | None) -> None:
        if not waiting.done():
            waiting.set_exception(error if error is not None else TooLargeError())

    receiver = Fetch(limit, done, failed)
    receiver.call = upstream.send(request, key, receiver)
    try:
        return await waiting
    finally:
        receiver.call.abandon()
