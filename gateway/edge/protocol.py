"""The client connection: uvicorn's httptools protocol, made strict and bounded.

Adds what uvicorn leaves to a proxy in front of it: limits on the head, deadlines, one exact answer to a malformed
request and nothing after it, answers of pipelined requests in order, the raw target, a lingering close. It must not
know where requests go.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import deque
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway.core.model import ErrorCode, Headers
from gateway.core.refusal import Refusal
from gateway.edge.arrival import Arrival
from gateway.edge.exchange import Exchange
from gateway.edge.lane_choice import Lane, choose_lane
from gateway.edge.listener import EdgeConfig, Listener
from gateway.edge.request_guard import check, origin_form

_NEVER: Final = float("inf")
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 1 << 20
# Requests that one connection may have waiting for answers. Each costs some 2 KB, and 27 bytes to its sender.
_PIPELINE_LIMIT: Final = 100
# POLLERR and POLLHUP are always told; a mere FIN only where the system knows POLLRDHUP.
_HANG_UP: Final = getattr(select, "POLLRDHUP", 0)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
# Stands for the request where none could be read.
_UNREADABLE: Final = Arrival("", b"", [], "", "http", "1.1", 0, has_body=False)
# What a chunk costs besides its bytes: up to 16 hex digits and two line ends.
_PLAIN_CHUNK_BYTES: Final = 20


class _Expiry(Enum):
    """What a connection is waiting for when its deadline strikes."""

    NOTHING = auto()
    REQUEST = auto()
    HEAD = auto()
    BODY = auto()
    LINGER = auto()
    TUNNEL = auto()


class EdgeProtocol(HttpToolsProtocol):
    """One client connection. Callbacks come from httptools in the order of the bytes.

    Attributes:
        listener: What the worker's connections share.
    """

    def __init__(self, config: EdgeConfig, server_state: Any, app_state: Any, _loop: Any = None) -> None:  # noqa: ANN401 - uvicorn's own signature
        super().__init__(config, server_state, app_state, _loop)
        self.listener: Listener = config.listener
        self._peer = ""
        self._exchanges: deque[Exchange] = deque()
        self._incoming: Exchange | None = None
        # Asked to switch protocols: what follows it is not HTTP, or not to be read.
        self._switching: Exchange | None = None
        self._deadline = _NEVER
        self._expiry = _Expiry.NOTHING
        self._write_deadline = _NEVER
        self._body_until = _NEVER
        self._unsent_bytes = 0
        self._is_advancing = False
        self._head: Headers = []
        self._in_head = True
        self._begun = False
        self._body_follows = False
        self._head_is_known = False
        self._is_new = False
        self._segment_bytes = 0
        self._first_bytes = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._wire_bytes = 0
        self._chunks = 0
        self._overhead_checked = False
        # No further request is read from this connection; what still comes is counted and dropped.
        self._deaf = False
        self._dropped_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<EdgeProtocol exchanges={len(self._exchanges)} expiry={self._expiry.name} deaf={self._deaf}"
            f" in_head={self._in_head}>"
        )

    # --- transport ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client connected."""
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = get_local_addr(transport)
        self.client = get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._peer = self.client[0] if self.client else ""
        if not self.listener.admit(self, self._peer):
            self.listener.refused(ErrorCode.OVERLOADED)
            self._deaf = True
            transport.abort()
            return
        self.connections.add(self)
        self._expect(_Expiry.REQUEST, self.listener.limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone, or we closed."""
        self.connections.discard(self)
        self.listener.forget(self, self._peer)
        self._deaf = True
        self._expiry = _Expiry.NOTHING
        self.flow.resume_writing()
        for exchange in self._exchanges:
            exchange.lose()
        self._exchanges.clear()
        self._incoming = self._switching = None
        self.parser = None  # type: ignore[assignment]  # as in uvicorn: breaks the reference cycle

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's, where uvicorn's says less
        """The client will send no more: it counts as gone, as nginx has it, since its FIN may be all we ever see.

        Not so at the end of a tunnel, whose protocol may know halves.
        """
        switching = self._switching
        if switching is None or not switching.has_switched or switching.run is None:
            return False
        switching.run.client_finished()
        return True

    def pause_writing(self) -> None:
        """The client takes its answer slower than it comes."""
        self._write_deadline = self.loop.time() + self.listener.limits.write_idle_timeout_s
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """The client has taken most of what waited."""
        self._write_deadline = _NEVER
        self.flow.resume_writing()
        if self._exchanges and (run := self._exchanges[0].run) is not None:
            run.client_ready()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._segment_bytes = len(data)
        while data and not self._deaf:
            if self._switching is not None:
                self._switching.raw_received(data)
                return
            if self._in_head:
                if self._begun:
                    self._head_bytes += len(data)
            else:
                self._wire_bytes += len(data)
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                # Nothing is switched (RFC 9110 §7.8 lets a server ignore Upgrade): what follows is the rest of this
                # request, and then the next one.
                data = data[upgrade.args[0] :]
                if self._body_follows:
                    self._body_follows = False
                    self._parse_body_on()
            except httptools.HttpParserError:
                # A callback may have refused the request already; llhttp stumbles over the rest of it afterwards.
                if self._deaf:
                    return
                self._refuse(Refusal(ErrorCode.BAD_REQUEST, "malformed HTTP", close=True))
        if data:
            self._drop(data)
        elif not self._deaf and (self._begun or not self._in_head):
            self._check_unfinished()

    def _parse_body_on(self) -> None:
        """Has a fresh parser read the body of the request whose head is known: the one that read the head gave up."""
        assert self._incoming is not None
        length = self._incoming.arrival.length
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        self.parser = httptools.HttpRequestParser(self)
        self._head_is_known = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        self._head_is_known = False

    def _check_unfinished(self) -> None:
        """Holds a request that did not come whole in this segment against its bounds."""
        limits = self.listener.limits
        if self._in_head:
            # Only now, so that a request that comes at once arms nothing; and by its first byte, since the parser skips
            # empty lines, and they shall not buy time.
            if self._is_new and not self._exchanges:
                self._expect(_Expiry.HEAD, limits.header_timeout_s)
            self._is_new = False
            if self._head_bytes > limits.header_bytes:
                self._refuse(Refusal(ErrorCode.HEADERS_TOO_LARGE, _head_limit(limits.header_bytes), close=True))
        elif self._overhead_checked:
            overhead = self._wire_bytes - self._body_bytes - self._chunks * _PLAIN_CHUNK_BYTES
            if overhead > limits.chunk_overhead_bytes:
                self._refuse(Refusal(ErrorCode.BAD_REQUEST, "chunk extensions or trailers are too long", close=True))

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data)
        if self._dropped_bytes > _LINGER_BYTES:
            if self._expiry is _Expiry.LINGER:
                self.transport.abort()
            else:
                self.flow.pause_reading()

    # --- parser ---

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._head_is_known:
            return
        self.url = b""
        self._head = []
        self._begun = True
        self._is_new = True
        self._head_bytes = 0
        self._first_bytes = self._segment_bytes

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        if not self._head_is_known:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; after the head it is a trailer, which is not forwarded: it came after every decision."""
        if self._in_head and len(self._head) <= self.listener.limits.header_fields:
            self._head.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: check it and hand the request over."""
        if self._deaf or self._head_is_known:
            return
        self._in_head = False
        parser, headers = self.parser, self._head
        method, version = parser.get_method().decode("latin-1"), parser.get_http_version()
        try:
            self._check_sizes(headers)
            checked = check(version, headers)
            target = origin_form(method, self.url, headers)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        length, declared, closes, expects_continue, upgrade = checked
        listener = self.listener
        if listener.express is None or method != "GET":
            upgrade = None
        lane = choose_lane(
            express=listener.express is not None and listener.is_express_on,
            length=length,
            expects_continue=expects_continue,
            upgrade=upgrade is not None,
        )
        scheme = self.scheme or "http"
        arrival = Arrival(method, target, headers, self._peer, scheme, version, length, declared, upgrade)
        exchange = Exchange(self, arrival, lane)
        exchange.expects_continue = expects_continue
        # A client must be ready to ask again for what comes after a close (RFC 9112 §9.3.2).
        exchange.keep_alive = not closes and upgrade is None and len(self._exchanges) < _PIPELINE_LIMIT - 1
        self._body_bytes = self._wire_bytes = self._chunks = 0
        # Bytes of the head share the first segment, so only what comes in later ones is measured.
        self._overhead_checked = length is None
        self._incoming = exchange
        if length != 0:
            self._expect(_Expiry.BODY, self.listener.limits.body_idle_timeout_s)
        self._enqueue(exchange)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        """Body bytes."""
        if self._deaf or self._incoming is None:
            return
        self._body_bytes += len(body)
        waiting = self._incoming.feed(body)
        if waiting > self.listener.limits.buffer_bytes:
            # Our own slowness is not the client's: no deadline while we do not read.
            self.flow.pause_reading()
            self._expect(_Expiry.NOTHING, _NEVER)
        elif not self.flow.read_paused:
            self._deadline = min(self.loop.time() + self.listener.limits.body_idle_timeout_s, self._body_until)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._incoming is not None and self._incoming.arrival.length != 0 and self.parser.should_upgrade():
            # httptools ends a request that asks for an upgrade at its head, whatever length it declares. To take its
            # body for the next request would be a smuggler's gift.
            self._body_follows = True
            return
        self._in_head = True
        self._begun = False
        if self._deaf or self._incoming is None:
            return
        exchange, self._incoming = self._incoming, None
        self._expect(_Expiry.NOTHING, _NEVER)
        self._body_until = _NEVER
        exchange.finish_body()
        if exchange.arrival.upgrade is not None:
            self._switching = exchange
        elif not exchange.keep_alive:
            self._deaf = True
        if not exchange.begun:
            self._advance()

    # --- exchanges ---

    def await_body(self, within_s: float) -> None:
        """Bounds the time for the rest of the body that is being read, however it drips."""
        self._body_until = self.loop.time() + within_s
        self._deadline = min(self._deadline, self._body_until)

    def body_wanted(self) -> None:
        """An exchange has taken its waiting body bytes: read on."""
        if self.flow.read_paused and len(self._exchanges) <= 1:
            self.flow.resume_reading()
            if self._incoming is not None:
                self._expect(_Expiry.BODY, self.listener.limits.body_idle_timeout_s)

    def answered(self, exchange: Exchange) -> None:
        """An answer was written whole: next request, wait for one, or close."""
        if not self._exchanges or self._exchanges[0] is not exchange or self.transport.is_closing():
            return
        self._exchanges.popleft()
        self.server_state.total_requests += 1
        if not exchange.keep_alive:
            is_followed = self._dropped_bytes > 0 or bool(self._exchanges) or self._begun or exchange.has_early_bytes
            self._close(unread=exchange.more_body or is_followed)
        elif self._exchanges:
            self._advance()
        elif not self._begun:
            self.flow.resume_reading()
            self._expect(_Expiry.REQUEST, self.listener.limits.keep_alive_s)
        else:
            self.flow.resume_reading()
            self._expect(_Expiry.HEAD, self.listener.limits.header_timeout_s)

    def tunnel_moved(self) -> None:
        """Bytes pass through the tunnel."""
        self._expect(_Expiry.TUNNEL, self.listener.limits.tunnel_idle_s)

    def abort(self) -> None:
        """Resets the connection."""
        self._deaf = True
        # Without this the kernel says goodbye politely when nothing is unread, and a client that reads until the end
        # of the connection (RFC 9112 §6.3 rule 8) takes half an answer for a whole one.
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    @property
    def is_busy(self) -> bool:
        """Whether it carries a request whose head is known."""
        return bool(self._exchanges)

    def evict(self) -> None:
        """Makes room for another connection."""
        self.listener.forget(self, self._peer)
        self.transport.abort()

    def drain(self, now: float) -> None:
        """The worker is leaving: idle connections end when its linger time is over, the others with their answer."""
        if self.listener.linger_until <= now:
            self.shutdown()

    def shutdown(self) -> None:
        """Ends an idle connection at once; a busy one ends with its answer (the listener is draining)."""
        if not self._exchanges and not self._begun and not self.transport.is_closing():
            self._finish()

    def expire_if_overdue(self, now: float) -> None:
        """Ends what has waited too long. Called by the listener's sweep."""
        if now > self._write_deadline or (self.flow.read_paused and self._has_hung_up()):
            self.transport.abort()
            return
        if self.listener.draining and now > self.listener.linger_until:
            self.shutdown()
        if now < self._deadline:
            return
        match self._expiry:
            case _Expiry.NOTHING:
                return
            case _Expiry.REQUEST:
                self._finish()
            case _Expiry.TUNNEL:
                self.transport.abort()
            case _Expiry.LINGER:
                unsent = self.transport.get_write_buffer_size()
                if 0 < unsent < self._unsent_bytes:
                    # It still takes the tail of its answer.
                    self._unsent_bytes = unsent
                    self._expect(_Expiry.LINGER, self.listener.limits.write_idle_timeout_s)
                else:
                    self.transport.abort()
            case _Expiry.HEAD | _Expiry.BODY:
                if self._exchanges and self._incoming is None:
                    # An earlier request is still being answered; the late head is judged afterwards.
                    return
                if self._incoming is not None and self._incoming.started:
                    # Both directions stream; who waits for whom is theirs to say.
                    return
                self._refuse(Refusal(ErrorCode.REQUEST_TIMEOUT, "the request did not arrive in time", close=True))

    def _has_hung_up(self) -> bool:
        """Whether the client closed while nothing is read from it: asyncio would tell only after the next read."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), _HANG_UP)
        return bool(poll.poll(0))

    def _expect(self, expiry: _Expiry, within_s: float) -> None:
        self._expiry = expiry
        self._deadline = self.loop.time() + within_s

    def _enqueue(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self._advance()
        else:
            # Until its turn comes it is not read, and so not waited for.
            self.flow.pause_reading()
            self._expect(_Expiry.NOTHING, _NEVER)

    def _advance(self) -> None:
        """Begins the exchange that is first in line, and the next where that is answered at once."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._exchanges and not self._exchanges[0].begun:
                exchange = self._exchanges[0]
                if len(self._exchanges) == 1:
                    self.flow.resume_reading()
                if self._incoming is exchange:
                    if exchange.arrival.length == 0 and exchange.lane is Lane.EXPRESS:
                        # Its end comes next, in the same breath; begun before it, its answer could come before it.
                        return
                    self._expect(_Expiry.BODY, self.listener.limits.body_idle_timeout_s)
                exchange.begun = True
                self._begin(exchange)
        finally:
            self._is_advancing = False

    def _begin(self, exchange: Exchange) -> None:
        if exchange.refusal is not None:
            exchange.answer_refusal(exchange.refusal)
        elif self.listener.express is not None and exchange.lane is Lane.EXPRESS:
            self.listener.express.begin(exchange)
        else:
            task = exchange.task = self.loop.create_task(self.app(exchange.scope(), exchange.receive, exchange.send))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            task.add_done_callback(lambda done: self._ran(exchange, done))

    def _ran(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        """The application has returned: make sure that the client got one whole answer or a reset."""
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self.logger.error("application_failed", exc_info=failure)
        if exchange.complete or exchange.disconnected or self.transport.is_closing():
            return
        if exchange.started:
            self.abort()
        elif exchange.refusal is not None:
            exchange.answer_refusal(exchange.refusal)
        else:
            exchange.answer_refusal(Refusal(ErrorCode.INTERNAL, "the gateway failed", close=True))

    def _refuse(self, refusal: Refusal) -> None:
        """Answers a request that cannot be read on, after those before it, and reads nothing more."""
        self._deaf = True
        self._expect(_Expiry.NOTHING, _NEVER)
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.refuse(refusal)
            return
        exchange = Exchange(self, _UNREADABLE)
        exchange.refusal = refusal
        exchange.keep_alive = False
        self._enqueue(exchange)

    def _close(self, *, unread: bool) -> None:
        """Closes after an answer.

        With unread bytes a plain close would reset the connection and could cost the client the answer (RFC 9112 §9.6),
        so the write half goes first and the rest is read into the void for a moment.
        """
        self._deaf = True
        self._switching = None
        for exchange in self._exchanges:
            exchange.lose()
        self._exchanges.clear()
        if not unread or not self.transport.can_write_eof():
            self._finish()
            return
        self.transport.write_eof()
        self._dropped_bytes = 0
        self._unsent_bytes = self.transport.get_write_buffer_size() + 1
        self._expect(_Expiry.LINGER, _LINGER_S)
        self.flow.resume_reading()

    def _finish(self) -> None:
        """Closes once the client has taken what was written, if it ever does."""
        self._deaf = True
        self.transport.close()
        self._unsent_bytes = self.transport.get_write_buffer_size() + 1
        self._expect(_Expiry.LINGER, self.listener.limits.write_idle_timeout_s)

    def _check_sizes(self, headers: Headers) -> None:
        limits = self.listener.limits
        if len(self.url) > limits.target_bytes:
            raise Refusal(ErrorCode.URI_TOO_LONG, f"the target is longer than {limits.target_bytes} bytes", close=True)
        if len(headers) > limits.header_fields:
            message = f"more than {limits.header_fields} header fields"
            raise Refusal(ErrorCode.HEADERS_TOO_LARGE, message, close=True)
        if self._first_bytes + self._head_bytes <= limits.header_bytes:
            # All that came since its first byte fits, whatever came behind it.
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > limits.header_bytes:
            raise Refusal(ErrorCode.HEADERS_TOO_LARGE, _head_limit(limits.header_bytes), close=True)


def _head_limit(limit: int) -> str:
    return f"the request head is larger than {limit} bytes ({HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE.phrase})"
