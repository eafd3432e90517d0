"""Answers kept whole, within bounds: the one that a client gets, and those to copies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.core.compare.answers import Answer
from gateway.core.mirroring import Unmirrored, is_accepted
from gateway.core.model import Headers
from gateway.ports import Upstream, UpstreamCall, UpstreamRequest
from gateway.shadow.budget import Holding, size_of_fields

_PIECE_BYTES: Final = 64
"""What a piece takes besides its bytes."""


class NoRoomError(Exception):
    """An answer cannot be kept.

    Attributes:
        why: It is too large, or there is no room for it now.
    """

    def __init__(self, why: Unmirrored) -> None:
        super().__init__(why.value)
        self.why = why


class Keeper:
    """Keeps one answer as it comes, asking for room before it keeps anything."""

    __slots__ = ("_full", "_headers", "_holding", "_limit", "_pieces", "_size", "_status")

    def __init__(self, limit: int, holding: Holding, full: Callable[[], Unmirrored]) -> None:
        """Keeps nothing yet.

        Args:
            limit: Largest body, in bytes.
            holding: Where room is asked for.
            full: Why there is none.
        """
        self._limit = limit
        self._holding = holding
        self._full = full
        self._status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._size = 0

    def head(self, status: int, headers: Headers) -> None:
        """The final head.

        Raises:
            NoRoomError: It cannot be kept.
        """
        self._take(size_of_fields(headers))
        self._status, self._headers = status, headers

    def piece(self, data: bytes) -> None:
        """A piece of the body.

        Raises:
            NoRoomError: It cannot be kept.
        """
        self._size += len(data)
        if self._size > self._limit:
            raise NoRoomError(Unmirrored.TOO_LARGE)
        self._take(len(data) + _PIECE_BYTES)
        self._pieces.append(data)

    def whole(self, status: int, headers: Headers, body: bytes) -> Answer:
        """A whole answer.

        Raises:
            NoRoomError: It cannot be kept.
        """
        if len(body) > self._limit:
            raise NoRoomError(Unmirrored.TOO_LARGE)
        self._take(size_of_fields(headers) + len(body))
        return Answer(status, headers, body)

    def answer(self) -> Answer:
        """The answer, which has come to its end."""
        return Answer(self._status, self._headers, b"".join(self._pieces))

    def forget(self) -> None:
        """Lets go of what came."""
        self._pieces.clear()
        self._headers = []

    def _take(self, size: int) -> None:
        if not self._holding.grow(size):
            raise NoRoomError(self._full())


class Recording:
    """Keeps the answer to a read as it passes. Implements `ports.Witness`."""

    __slots__ = ("_done", "_holding", "_is_over", "_keeper", "_lost")

    def __init__(
        self,
        limit: int,
        holding: Holding,
        full: Callable[[], Unmirrored],
        done: Callable[[Answer], None],
        lost: Callable[[Unmirrored], None],
    ) -> None:
        """Keeps nothing yet.

        Args:
            limit: Largest body, in bytes.
            holding: What is held for the read; `done` owns it, else it is released here.
            full: Why there is no room, when there is none.
            done: Takes the whole answer.
            lost: Takes why there is none.
        """
        self._holding = holding
        self._done = done
        self._lost = lost
        self._keeper = Keeper(limit, holding, full)
        self._is_over = False

    def answer_received(self, status: int, headers: Headers, body: bytes) -> None:
        """See `ports.Witness`."""
        if not is_accepted(status):
            self.lost(Unmirrored.NOT_ACCEPTED)
        elif not self._is_over:
            try:
                answer = self._keeper.whole(status, headers, body)
            except NoRoomError as error:
                self.lost(error.why)
            else:
                self._end(answer)

    def head_received(self, status: int, headers: Headers) -> None:
        """See `ports.Witness`."""
        if not is_accepted(status):
            self.lost(Unmirrored.NOT_ACCEPTED)
        elif not self._is_over:
            try:
                self._keeper.head(status, headers)
            except NoRoomError as error:
                self.lost(error.why)

    def body_received(self, data: bytes) -> None:
        """See `ports.Witness`."""
        if self._is_over:
            return
        try:
            self._keeper.piece(data)
        except NoRoomError as error:
            self.lost(error.why)

    def answer_completed(self) -> None:
        """See `ports.Witness`."""
        if not self._is_over:
            self._end(self._keeper.answer())

    def lost(self, why: Unmirrored) -> None:
        """See `ports.Witness`."""
        if not self._is_over:
            self.withdraw()
            self._lost(why)

    def withdraw(self) -> None:
        """See `ports.Witness`."""
        if not self._is_over:
            self._is_over = True
            self._keeper.forget()
            self._holding.release()

    def _end(self, answer: Answer) -> None:
        self._is_over = True
        self._keeper.forget()
        self._done(answer)


class Fetch:
    """Keeps the answer to a copy. Implements `ports.AnswerReceiver`.

    Attributes:
        call: The exchange; set by whoever began it.
    """

    __slots__ = ("_done", "_failed", "_is_over", "_keeper", "call")

    def __init__(
        self, limit: int, holding: Holding, done: Callable[[Answer], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Keeps nothing yet.

        Args:
            limit: Largest body, in bytes.
            holding: Where room is asked for; whoever fetches owns it.
            done: Takes the whole answer.
            failed: Takes the failure; `NoRoomError`: the answer was given up.
        """
        self._done = done
        self._failed = failed
        self._keeper = Keeper(limit, holding, lambda: Unmirrored.COMPARISON_FULL)
        self._is_over = False
        self.call: UpstreamCall | None = None

    def interim_received(self, status: int, headers: Headers) -> None:
        """See `ports.AnswerReceiver`."""

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:  # noqa: ARG002 - the port's
        """See `ports.AnswerReceiver`."""
        try:
            self._keeper.head(status, headers)
        except NoRoomError as error:
            self._give_up(error)

    def body_received(self, data: bytes) -> None:
        """See `ports.AnswerReceiver`."""
        if self._is_over:
            return
        try:
            self._keeper.piece(data)
        except NoRoomError as error:
            self._give_up(error)

    def answer_completed(self, trailers: Headers) -> None:  # noqa: ARG002 - the port's
        """See `ports.AnswerReceiver`."""
        if not self._is_over:
            self._end(self._keeper.answer())

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:  # noqa: ARG002
        """See `ports.AnswerReceiver`."""
        try:
            answer = self._keeper.whole(status, headers, body)
        except NoRoomError as error:
            self._give_up(error)
        else:
            self._end(answer)

    def exchange_failed(self, error: BaseException) -> None:
        """See `ports.AnswerReceiver`."""
        if not self._is_over:
            self._is_over = True
            self._keeper.forget()
            self._failed(error)

    def _end(self, answer: Answer) -> None:
        self._is_over = True
        self._keeper.forget()
        self._done(answer)

    def _give_up(self, error: NoRoomError) -> None:
        if self.call is not None:
            self.call.abandon()
        self.exchange_failed(error)


async def fetch(upstream: Upstream, request: UpstreamRequest, key: str | None, limit: int, holding: Holding) -> Answer:
    """Sends a copy and returns its answer.

    Raises:
        UpstreamError: There is none.
        RevokedError: It was not sent.
        NoRoomError: It is too large, or there is no room for it.
    """
    waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(answer: Answer) -> None:
        if not waiting.done():
            waiting.set_result(answer)

    def failed(error: BaseException) -> None:
        if not waiting.done():
            waiting.set_exception(error)

    receiver = Fetch(limit, holding, done, failed)
    receiver.call = upstream.send(request, key, receiver)
    try:
        return await waiting
    finally:
        receiver.call.abandon()
