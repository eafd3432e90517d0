"""One connection to an instance: carries one exchange at a time, callback to callback.

Owns the transport, the deadlines of the running exchange and the decision whether the connection may be used again. It
must not know how it was chosen nor who reads: it talks to its owner (the pool) and to the exchange's `Sink`. Nothing in
here awaits but `drain`, so a caller without a task can use it as well.
"""

from __future__ import annotations

import asyncio
import os
import select
from math import inf
from typing import Protocol, cast

from gateway.core.model import Deadlines, ErrorCode, Headers
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody, UpstreamRequest
from gateway.upstream.answer import AnswerReader
from gateway.upstream.framing import InvalidAnswerError
from gateway.upstream.lazy_timer import LazyTimer
from gateway.upstream.limits import UpstreamLimits
from gateway.upstream.stats import DropReason

_NO_DEADLINES = Deadlines()
# A stalled upload is looked at this many times per send deadline, so it is noticed at most a quarter late.
_STALL_SAMPLES = 4
_SALVAGE_BYTES = 64 * 1024
# Up to here head and body go out as one buffer; beyond, copying costs more than a second one.
_JOIN_BYTES = 16 * 1024


class Sink(Protocol):
    """Who receives an answer: `answer_received` alone, or interim*, head, body* and then completed, in this order.

    `exchange_failed` may come at any point instead. After `abandon` nothing comes any more.
    """

    def interim_received(self, status: int, headers: Headers) -> None:
        """A 1xx answer other than 101."""

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:
        """The final head; arguments as in `UpstreamResponse`."""

    def body_received(self, data: bytes) -> None:
        """A piece of the body, not empty."""

    def answer_completed(self, trailers: Headers) -> None:
        """The answer is complete; the connection is no longer the sink's."""

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        """A whole answer without trailers came in one piece; the connection is no longer the sink's."""

    def switched(self, headers: Headers) -> None:
        """The answer is a 101 that was asked for: from now on `body_received` brings what comes through the tunnel."""

    def side_ready(self) -> None:
        """The side takes bytes of the tunnel again."""

    def side_finished(self) -> None:
        """The side sends no more through the tunnel."""

    def exchange_failed(self, error: BaseException, *, is_stale: bool) -> None:
        """The exchange ended early; the connection is closed.

        Args:
            error: An `UpstreamError`, or what the request's body raised.
            is_stale: The connection had been used before and broke before any byte of an answer came.
        """


class Owner(Protocol):
    """Who lends connections out."""

    def take_back(self, connection: Connection) -> None:
        """The exchange is over and the connection may be used again."""

    def forget(self, connection: Connection, reason: DropReason) -> None:
        """The connection is closed. Called once."""


class Connection(asyncio.Protocol):
    """A keep-alive HTTP/1.1 connection, client side.

    Attributes:
        idle_since: When it was last given back, on the loop's clock; kept by the owner.
        is_closed: It is gone or going; no exchange may start.
    """

    __slots__ = (
        "_deadlines",
        "_drained",
        "_exchanges",
        "_head_delivered",
        "_is_chunked_upload",
        "_is_tunnel",
        "_is_uploading",
        "_limits",
        "_loop",
        "_name",
        "_owner",
        "_phase",
        "_phase_at",
        "_poll",
        "_read_paused",
        "_reader",
        "_sink",
        "_stalled_bytes",
        "_stalled_since",
        "_timer",
        "_total_at",
        "_transport",
        "_write_paused",
        "idle_since",
        "is_closed",
    )

    def __init__(self, owner: Owner, name: str, limits: UpstreamLimits, loop: asyncio.AbstractEventLoop) -> None:
        """Made by the pool; usable after `connection_made`.

        Args:
            owner: Told of its end and of the end of an exchange.
            name: Of the instance, for errors.
            limits: Bounds on answers and buffers.
            loop: The running loop.
        """
        self._owner = owner
        self._name = name
        self._limits = limits
        self._loop = loop
        self._timer = LazyTimer(loop, self._check_deadlines)
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._exchanges = 0
        self._write_paused = False
        self._read_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._reader: AnswerReader | None = None
        self._deadlines = _NO_DEADLINES
        self._phase = Phase.FIRST_BYTE
        self._phase_at = inf
        self._total_at = inf
        self._stalled_bytes = 0
        self._stalled_since = 0.0
        self._head_delivered = False
        self._is_uploading = False
        self._is_chunked_upload = False
        self._is_tunnel = False
        self.idle_since = 0.0
        self.is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self._sink is None else f"busy:{self._phase}"
        paused = f"{' reading paused' if self._read_paused else ''}{' writing paused' if self._write_paused else ''}"
        return f"<Connection {self._name} {state}{paused} exchanges={self._exchanges}>"

    # -- for the owner ----------------------------------------------------------------------------------------------

    def can_start(self) -> bool:
        """Whether an exchange may start now: open, and the side has neither closed it nor sent anything unasked.

        The loop may not yet have read what is in the socket: bytes there would be taken for the next answer, so the
        socket itself is asked (0.4 µs measured).
        """
        if self.is_closed or self._transport is None or self._transport.is_closing():
            return False
        if not self._exchanges or self._poll is None:
            return True
        return not self._poll.poll(0)

    def close(self, reason: DropReason) -> None:
        """Closes a connection that carries no exchange, letting TLS say goodbye."""
        self._drop(reason, at_once=False)

    # -- for who has an exchange ------------------------------------------------------------------------------------

    def start(self, request: UpstreamRequest, head: bytes, sink: Sink, total_at: float) -> None:
        """Sends a request; `sink` hears of the answer. Only after `can_start`.

        Args:
            request: What to send. A `StreamedBody` is announced only: feed it with `write_body`, `finish_body`.
            head: `write_request_head(request)`.
            sink: Hears of the answer.
            total_at: When the whole exchange must be over, on the loop's clock; infinity = never.
        """
        transport = self._transport
        assert transport is not None
        assert self._sink is None
        self._exchanges += 1
        self._sink = sink
        self._reader = AnswerReader(self._limits, answers_head=request.method == b"HEAD", asked=request.upgrade)
        self._deadlines = request.deadlines
        self._total_at = total_at
        self._head_delivered = False
        body = request.body
        if not body:
            transport.write(head)
        elif isinstance(body, StreamedBody):
            self._is_uploading = True
            self._is_chunked_upload = body.length is None
            transport.write(head)
        elif len(body) <= _JOIN_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        self._arm()

    def write(self, data: bytes) -> bool:
        """Sends bytes through a tunnel. False: wait for `Sink.side_ready`."""
        if self._is_tunnel and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
        return not self._write_paused

    def write_eof(self) -> None:
        """Sends no more through a tunnel."""
        transport = self._transport
        if not self._is_tunnel or transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:
            # TLS knows no half of a connection.
            transport.close()

    def finish(self) -> None:
        """Ends a tunnel after what was written; the sink is not called any more."""
        self._end_exchange()
        self._drop(DropReason.SIDE_CLOSES, at_once=False)

    def write_body(self, data: bytes) -> None:
        """Sends a piece of a streamed body, not empty. Follow with `drain`. Ignored once the exchange is over."""
        if self._sink is None or self._transport is None or self._transport.is_closing():
            return
        if self._is_chunked_upload:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self._transport.write(data)

    def finish_body(self) -> None:
        """Ends a streamed body. Ignored once the exchange is over."""
        if self._sink is None or self._transport is None or self._transport.is_closing():
            return
        if self._is_chunked_upload:
            self._transport.write(b"0\r\n\r\n")
        self._is_uploading = False
        self._arm()

    async def drain(self) -> None:
        """Waits until the side has taken enough of what was written, or the connection is closed."""
        # On a transport that is closing, too: whoever writes on in a tight loop would keep its end from being noticed.
        while not self.is_closed and (self._write_paused or self._transport is None or self._transport.is_closing()):
            self._drained = self._loop.create_future()
            await self._drained

    def pause(self) -> None:
        """Stops reading the answer: whoever reads it is slower than the side."""
        if self._transport is not None and not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()
            self._arm()

    def resume(self) -> None:
        """Reads on."""
        if self._transport is not None and self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()
            self._arm()

    def abandon(self) -> None:
        """Closes the connection at once, in mid-exchange; the sink is not called any more."""
        self._end_exchange()
        self._drop(DropReason.CANCELLED)

    def fail_upload(self, error: BaseException) -> None:
        """Ends the exchange because its request cannot be completed: the side never sees a well-formed end of it."""
        self._fail(error, DropReason.UPLOAD_FAILED)

    def shut(self) -> None:
        """Closes the connection at once; a running exchange fails."""
        if self._sink is not None:
            self._fail(self._error(ErrorCode.UPSTREAM_RESET, "the client of this side was closed"), DropReason.RETIRED)
        else:
            self._drop(DropReason.RETIRED)

    # -- deadlines --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Sets the deadline of the phase that the exchange is in. A tunnel has none: its ends know when it is over."""
        if self._sink is None or self._is_tunnel:
            return
        deadlines = self._deadlines
        now = self._loop.time()
        self._phase_at = inf
        if self._head_delivered:
            self._phase = Phase.BODY
            # Silence counts only while we listen.
            if not self._read_paused and deadlines.between_bytes_s is not None:
                self._phase_at = now + deadlines.between_bytes_s
        elif self._is_uploading or self._write_paused:
            # A client that is slow to send is not the side's fault; only a side that does not take it is.
            self._phase = Phase.SEND
        else:
            self._phase = Phase.FIRST_BYTE
            if deadlines.first_byte_s is not None:
                self._phase_at = now + deadlines.first_byte_s
        at = min(self._phase_at, self._total_at)
        if self._write_paused:
            at = min(at, now + deadlines.send_s / _STALL_SAMPLES)
        self._timer.set(at)

    def _check_deadlines(self) -> None:
        if self._sink is None:
            return
        now = self._loop.time()
        if now >= self._total_at:
            self._time_out(Phase.TOTAL, "the exchange took too long")
        elif now >= self._phase_at:
            self._time_out(self._phase, "the side was silent for too long")
        elif self._write_paused:
            self._check_upload(now)
        else:
            self._timer.set(min(self._phase_at, self._total_at))

    @property
    def _waits_for_client(self) -> bool:
        """Whether it is not the side that holds the exchange up: clients must not be able to discredit it."""
        if self._head_delivered:
            return self._read_paused
        return self._is_uploading and not self._write_paused

    def _check_upload(self, now: float) -> None:
        assert self._transport is not None
        pending = self._transport.get_write_buffer_size()
        if pending != self._stalled_bytes:
            self._stalled_bytes = pending
            self._stalled_since = now
        if now - self._stalled_since >= self._deadlines.send_s:
            self._time_out(Phase.SEND, "the side does not take the request")
            return
        next_look = now + self._deadlines.send_s / _STALL_SAMPLES
        self._timer.set(min(next_look, self._phase_at, self._total_at))

    def _time_out(self, phase: Phase, detail: str) -> None:
        code = ErrorCode.UPSTREAM_TIMEOUT
        if phase is Phase.TOTAL and self._waits_for_client:
            code, detail = ErrorCode.REQUEST_TIMEOUT, f"{detail}; it was the client that was waited for"
        error = UpstreamError(code, upstream=self._name, phase=phase, detail=detail, sent=True)
        self._fail(error, DropReason.TIMEOUT)

    # -- the ends of an exchange ------------------------------------------------------------------------------------

    def _complete(self) -> None:
        sink, reader = self._sink, self._reader
        assert sink is not None
        assert reader is not None
        self._let_go()
        sink.answer_completed(reader.trailers)

    def _let_go(self) -> None:
        """The answer is complete: gives the connection back, or closes it."""
        reader, transport = self._reader, self._transport
        assert reader is not None
        assert transport is not None
        reason = None
        if reader.has_surplus:
            reason = DropReason.SURPLUS
        elif self._is_uploading or self._write_paused:
            reason = DropReason.EARLY_ANSWER
        elif not reader.keep_alive or transport.is_closing():
            reason = DropReason.SIDE_CLOSES
        elif transport.get_write_buffer_size():
            reason = DropReason.EARLY_ANSWER
        self._end_exchange()
        if reason is not None:
            self._drop(reason)
        else:
            if self._read_paused:
                # An idle connection is read, so that its end is noticed.
                self._read_paused = False
                transport.resume_reading()
            self._owner.take_back(self)

    def _fail(self, error: BaseException, reason: DropReason) -> None:
        sink, reader = self._sink, self._reader
        if sink is None or reader is None:
            return
        is_stale = self._exchanges > 1 and not reader.has_started and reason is DropReason.RESET
        self._end_exchange()
        self._drop(reason)
        sink.exchange_failed(error, is_stale=is_stale)

    def _fail_reset(self, detail: str) -> None:
        self._fail(self._error(ErrorCode.UPSTREAM_RESET, detail), DropReason.RESET)

    def _error(self, code: ErrorCode, detail: str) -> UpstreamError:
        return UpstreamError(code, upstream=self._name, phase=self._phase, detail=detail, sent=True)

    def _end_exchange(self) -> None:
        self._sink = None
        self._reader = None
        self._is_uploading = False
        self._timer.set(inf)

    def _drop(self, reason: DropReason, *, at_once: bool = True) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._timer.cancel()
        self._wake_writer()
        if self._transport is not None:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()
        self._owner.forget(self, reason)

    def _wake_writer(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- called by the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ready."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.body_buffer_bytes)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, or unasked ones."""
        sink, reader = self._sink, self._reader
        if sink is None or reader is None:
            self._drop(DropReason.SURPLUS)
            return
        if self._is_tunnel:
            sink.body_received(data)
            return
        invalid: InvalidAnswerError | None = None
        try:
            reader.feed(data)
        except InvalidAnswerError as exc:
            invalid = exc
        if (
            reader.is_complete
            and not self._head_delivered
            and invalid is None
            and not reader.interim
            and not reader.trailers
        ):
            body = reader.take_body()
            self._let_go()
            sink.answer_received(reader.status, reader.headers, reader.length, body)
            return
        # The sink may abandon the exchange in any of its calls.
        while reader.interim and self._sink is sink:
            sink.interim_received(*reader.interim.pop(0))
        if reader.has_head and not self._head_delivered and self._sink is sink:
            self._head_delivered = True
            self._phase = Phase.BODY
            if reader.has_switched:
                self._is_tunnel = True
                self._timer.set(inf)
                sink.switched(reader.headers)
                if reader.body and self._sink is sink:
                    sink.body_received(reader.take_body())
                return
            sink.head_received(reader.status, reader.headers, reader.length)
        if reader.body and self._sink is sink:
            sink.body_received(reader.take_body())
        if self._sink is not sink:
            return
        if invalid is not None:
            error = self._error(ErrorCode.UPSTREAM_INVALID, str(invalid))
            error.__cause__ = invalid
            self._fail(error, DropReason.INVALID)
        elif reader.is_complete:
            self._complete()
        elif self._head_delivered:
            self._arm()

    def eof_received(self) -> bool:
        """The side has finished sending; the transport closes itself after this, but for a tunnel."""
        reader = self._reader
        if self._is_tunnel and self._sink is not None:
            self._sink.side_finished()
            return True
        self._finish_answer(reader)
        return False

    def _finish_answer(self, reader: AnswerReader | None) -> None:
        if self._sink is None or reader is None:
            self._drop(DropReason.STALE)
            return
        reader.feed_eof()
        if reader.is_complete:
            self._complete()
        else:
            self._fail_reset("the side closed the connection in mid-answer")

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone. `exc` is None after an end of file or our own close."""
        if self._sink is not None and exc is not None:
            self._salvage_answer()
        if self._sink is not None:
            self._fail_reset(f"connection lost: {type(exc).__name__}" if exc else "connection lost")
        self._drop(DropReason.STALE)
        self._transport = None
        self._poll = None

    def _salvage_answer(self) -> None:
        """Reads what the side had sent before a write to it failed.

        A side that answers early (413) and closes makes our next write fail; the transport then forgets the bytes that
        are still in the socket. They are the answer. The file descriptor is open until this callback returns. Nothing
        can be done so for TLS: its records are no longer decrypted.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("ssl_object") is not None:
            return
        sock = transport.get_extra_info("socket")
        fd = -1 if sock is None else sock.fileno()
        while fd >= 0 and self._sink is not None:
            try:
                data = os.read(fd, _SALVAGE_BYTES)
            except OSError:  # empty, reset or no longer open: then nothing more is to be had
                return
            if not data:  # a reset socket whose error was fetched already reads so too: no clean end
                return
            self.data_received(data)

    def pause_writing(self) -> None:
        """The side takes the request slower than it is written."""
        self._write_paused = True
        if self._transport is not None:
            self._stalled_bytes = self._transport.get_write_buffer_size()
        self._stalled_since = self._loop.time()
        self._arm()

    def resume_writing(self) -> None:
        """The side caught up."""
        self._write_paused = False
        self._wake_writer()
        if self._is_tunnel and self._sink is not None:
            self._sink.side_ready()
        self._arm()
