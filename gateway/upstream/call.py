"""One exchange with a side, callback to callback: an instance (or the next), a connection of it, the one retry.

Owns what becomes of an exchange from the request to the last byte of the answer. Where a kept-alive connection is at
hand, which is the rule, nothing here awaits; a task exists only while a connection is opened or waited for. It must not
know who receives the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Set
from math import inf
from typing import Any, Protocol, cast

from gateway.core.model import ErrorCode, Headers
from gateway.errors import Phase, RevokedError, UpstreamError
from gateway.ports import AnswerReceiver, StreamedBody, TunnelReceiver, UpstreamRequest
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Pool
from gateway.upstream.upload import Upload

Another = Callable[[Set[int]], "tuple[int, Pool] | None"]
"""Gives an instance, with its pool, that is not among those that were tried; None when there is none."""


class Client(Protocol):
    """Who begins calls and learns what they say of an instance."""

    loop: asyncio.AbstractEventLoop
    opening: set[asyncio.Task[None]]
    """Calls that wait for a connection."""
    uploads: set[asyncio.Task[None]]
    """Streamed bodies on their way."""

    def note_answer(self, index: int) -> None:
        """An instance answered."""

    def note_failure(self, index: int, error: UpstreamError) -> None:
        """An instance did not answer."""

    def note_retry(self) -> None:
        """A request is sent a second time."""


class Call:
    """A request on its way and its answer on the way back. Implements `ports.UpstreamCall`.

    Attributes:
        instance: Name of the instance.
    """

    __slots__ = (
        "_another",
        "_client",
        "_connection",
        "_has_head",
        "_head",
        "_index",
        "_is_over",
        "_is_retry",
        "_pool",
        "_receiver",
        "_request",
        "_task",
        "_total_at",
        "_upload",
        "instance",
    )

    def __init__(
        self,
        client: Client,
        pool: Pool,
        index: int,
        request: UpstreamRequest,
        head: bytes,
        receiver: AnswerReceiver,
        another: Another | None = None,
    ) -> None:
        """Sends nothing yet.

        Args:
            client: Of the side.
            pool: Of the chosen instance.
            index: Of the instance.
            request: What to send.
            head: `write_request_head(request)`.
            receiver: Hears of the answer.
            another: Where another instance would do as well.
        """
        self._client = client
        self._pool = pool
        self._index = index
        self._request = request
        self._head = head
        self._receiver = receiver
        total_s = request.deadlines.total_s
        self._total_at = inf if total_s is None else client.loop.time() + total_s
        self._connection: Connection | None = None
        self._upload: Upload | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_head = False
        self._is_retry = False
        self._is_over = False
        self._another = another
        self.instance = pool.name

    def __repr__(self) -> str:
        state = "over" if self._is_over else "waiting" if self._connection is None else "running"
        return f"<Call {self.instance} {state}{' retried' if self._is_retry else ''}>"

    def begin(self) -> None:
        """Sends the request, at once where a connection is idle."""
        connection = self._pool.take()
        if connection is not None:
            self._start(connection)
        else:
            self._run(self._acquire(is_fresh=False))

    # -- for the receiver -------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """See `ports.UpstreamCall`."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """See `ports.UpstreamCall`."""
        if self._connection is not None:
            self._connection.resume()

    def write(self, data: bytes) -> bool:
        """See `ports.UpstreamCall`."""
        return self._connection is None or self._connection.write(data)

    def write_eof(self) -> None:
        """See `ports.UpstreamCall`."""
        if self._connection is not None:
            self._connection.write_eof()

    def finish(self) -> None:
        """See `ports.UpstreamCall`."""
        connection = self._end()
        if connection is not None:
            connection.finish()

    def abandon(self) -> None:
        """See `ports.UpstreamCall`."""
        if self._is_over:
            return
        connection = self._end()
        if connection is not None:
            connection.abandon()
        if self._task is not None:
            self._task.cancel()

    # -- called by the connection -----------------------------------------------------------------------------------

    def interim_received(self, status: int, headers: Headers) -> None:
        """A 1xx answer."""
        self._receiver.interim_received(status, headers)

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:
        """The final head."""
        self._has_head = True
        self._client.note_answer(self._index)
        self._receiver.head_received(status, headers, length)

    def body_received(self, data: bytes) -> None:
        """A piece of the body."""
        self._receiver.body_received(data)

    def answer_completed(self, trailers: Headers) -> None:
        """The end of the body."""
        self._end()
        self._receiver.answer_completed(trailers)

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        """A whole answer."""
        self._end()
        self._client.note_answer(self._index)
        self._receiver.answer_received(status, headers, length, body)

    def switched(self, headers: Headers) -> None:
        """The exchange is a tunnel; only requests that asked for one come here."""
        self._has_head = True
        self._client.note_answer(self._index)
        cast(TunnelReceiver, self._receiver).switched(headers)

    def side_ready(self) -> None:
        """The side takes bytes again."""
        cast(TunnelReceiver, self._receiver).side_ready()

    def side_finished(self) -> None:
        """The side sends no more."""
        cast(TunnelReceiver, self._receiver).side_finished()

    def exchange_failed(self, error: BaseException, *, is_stale: bool) -> None:
        """The exchange ended early; unless the connection alone is to blame, it is over."""
        request = self._request
        if is_stale and request.may_retry and not isinstance(request.body, StreamedBody):
            self._connection = None
            self._is_retry = True
            self._client.note_retry()
            self._run(self._acquire(is_fresh=True))
        else:
            self._fail(error)

    # ---------------------------------------------------------------------------------------------------------------

    def _start(self, connection: Connection) -> None:
        self._connection = connection
        request = self._request
        connection.start(request, self._head, self, self._total_at)
        if isinstance(request.body, StreamedBody):
            self._upload = Upload(connection, request.body, self.instance, self._client.uploads)

    async def _acquire(self, *, is_fresh: bool) -> None:
        """Starts on a connection that has to be opened or waited for.

        A retry takes one that carried nothing yet: it cannot be stale.
        """
        tried: set[int] = set()
        while True:
            deadline = min(self._client.loop.time() + self._request.deadlines.connect_s, self._total_at)
            try:
                connection = await self._pool.acquire(deadline, is_fresh=is_fresh)
            except UpstreamError as error:
                error.sent = self._is_retry
                tried.add(self._index)
                if not self._move(error, tried):
                    self._fail(error)
                    return
            else:
                self._acquired(connection)
                return

    def _move(self, error: UpstreamError, tried: Set[int]) -> bool:
        """Turns to another instance, if this one cannot be connected to: it has seen nothing of the request."""
        if self._another is None or error.phase is not Phase.CONNECT or error.code is ErrorCode.OVERLOADED:
            return False
        if self._is_over or self._client.loop.time() >= self._total_at:
            return False
        another = self._another(tried)
        if another is None:
            return False
        self._client.note_failure(self._index, error)
        self._index, self._pool = another
        self.instance = self._pool.name
        return True

    def _acquired(self, connection: Connection) -> None:
        holds = self._request.holds
        if self._is_over:
            # Abandoned and granted in the same turn of the loop.
            self._pool.take_back(connection)
        elif holds is not None and not holds():
            self._pool.take_back(connection)
            self._fail(RevokedError("the side was changed before the request was sent"))
        else:
            self._start(connection)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._task = self._client.loop.create_task(work)
        self._client.opening.add(task)
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._client.opening.discard(task)
        self._task = None
        if task.cancelled():
            detail = "the client of this side was closed"
            self._fail(
                UpstreamError(
                    ErrorCode.OVERLOADED, upstream=self.instance, phase=Phase.SELECT, detail=detail, sent=self._is_retry
                )
            )
        elif (failure := task.exception()) is not None:
            self._fail(failure)

    def _fail(self, error: BaseException) -> None:
        if self._is_over:
            return
        had_head = self._has_head
        self._end()
        if not had_head and isinstance(error, UpstreamError):
            self._client.note_failure(self._index, error)
        self._receiver.exchange_failed(error)

    def _end(self) -> Connection | None:
        connection, self._connection = self._connection, None
        self._is_over = True
        if self._upload is not None:
            self._upload.stop()
            self._upload = None
        return connection
