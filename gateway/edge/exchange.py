"""One request and its answer on a client connection.

Owns the request body on its way in and the framing of the answer on its way out: `receive` and `send` for ASGI,
`answer`, or `start` and `write`, for callbacks. It must not know where requests go.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote

from gateway.core.model import Headers
from gateway.core.refusal import Refusal
from gateway.edge.arrival import Arrival
from gateway.edge.lane_choice import Lane
from gateway.edge.problem import problem_of_refusal

if TYPE_CHECKING:
    from gateway.edge.protocol import EdgeProtocol

Message = dict[str, Any]

_NO_FIELDS: Final[Headers] = []
_NO_BODY: Final = frozenset({204, 304})
_STATUS_LINE: Final = {
    status: b"HTTP/1.1 %d %s\r\n"
    % (status, HTTPStatus(status).phrase.encode() if status in HTTPStatus._value2member_map_ else b"")
    for status in range(200, 600)
}


def _interim_line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


class Carrier(Protocol):
    """Who carries a request in callbacks."""

    def body_complete(self) -> None:
        """The request's body is there."""

    def refuse(self, refusal: Refusal) -> None:
        """The rest of the request will not come, or cannot be read."""

    def client_ready(self) -> None:
        """The client takes bytes again."""

    def client_data(self, data: bytes) -> None:
        """Bytes of the client for a tunnel."""

    def client_finished(self) -> None:
        """The client sends no more through a tunnel; it still listens."""

    def client_gone(self) -> None:
        """The client left."""


class Exchange:
    """A request and its answer.

    Handed to an ASGI application as `scope["extensions"]["crossfade"]`.

    Attributes:
        arrival: The request; meaningless where there was none to be read (`refusal` is set then).
        lane: Who carries it.
        begun: It is being carried.
        more_body: Whether body bytes are still to come.
        keep_alive: Whether the connection may carry another request afterwards.
        started: The answer's head was given to the connection.
        complete: The answer was given to the connection whole.
        refusal: Answer this instead of running the application.
        has_switched: It is a tunnel now.
        trailers: Fields to send behind the body, where its framing has a place for them.
        task: The application at work, on the general lane.
        run: What carries it, on the express lane.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_early",
        "_head",
        "_head_only",
        "_owed",
        "_protocol",
        "_taken",
        "_waiter",
        "arrival",
        "begun",
        "complete",
        "disconnected",
        "expects_continue",
        "has_switched",
        "keep_alive",
        "lane",
        "more_body",
        "refusal",
        "run",
        "started",
        "task",
        "trailers",
    )

    def __init__(self, protocol: EdgeProtocol, arrival: Arrival, lane: Lane = Lane.GENERAL) -> None:
        self._protocol = protocol
        self.arrival = arrival
        self.lane = lane
        self.begun = False
        self.more_body = True
        self.keep_alive = True
        self.expects_continue = False
        self.started = False
        self.complete = False
        self.disconnected = False
        self.refusal: Refusal | None = None
        self.task: asyncio.Task[None] | None = None
        self.run: Carrier | None = None
        self.has_switched = False
        self.trailers: Headers = _NO_FIELDS
        self._early = b""
        self._body = bytearray()
        self._taken = False
        self._waiter: asyncio.Future[None] | None = None
        self._head: list[bytes] | None = None
        self._head_only = False
        self._chunked = False
        self._owed: int | None = None

    # --- the request, fed by the protocol ---

    def feed(self, data: bytes) -> int:
        """Takes body bytes; returns how many are waiting to be received."""
        self._body += data
        self._wake()
        return len(self._body)

    def await_body(self, within_s: float) -> None:
        """Bounds the time for the rest of the body; then the request is refused."""
        self._protocol.await_body(within_s)

    def finish_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        if self.run is not None:
            self.run.body_complete()
        else:
            self._wake()

    def lose(self) -> None:
        """The client is gone: whatever runs for it is cancelled."""
        self.disconnected = True
        self._wake()
        if self.run is not None:
            self.run.client_gone()
        if self.task is not None and not self.complete:
            self.task.cancel()

    def refuse(self, refusal: Refusal) -> None:
        """Answers with a refusal in place of the application, or aborts if an answer has begun."""
        self.refusal = refusal
        if self.started:
            self.abort()
        elif self.run is not None:
            self.run.refuse(refusal)
        elif self.task is not None:
            # Not at once: a task cancelled before its first step never runs, and it knows best how to say it.
            self._protocol.loop.call_soon(self._give_up)

    # --- ASGI ---

    def scope(self) -> Message:
        """The ASGI scope."""
        arrival, protocol = self.arrival, self._protocol
        raw_path, _, query = arrival.target.partition(b"?")
        path = raw_path.decode("latin-1")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": arrival.version,
            "method": arrival.method,
            "scheme": arrival.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": arrival.headers,
            "client": protocol.client,
            "server": protocol.server,
            "extensions": {"crossfade": self},
        }

    async def receive(self) -> Message:
        """ASGI `receive`: the next piece of the body, or `http.disconnect`."""
        if self.expects_continue and not self.started and self.more_body and not self._body:
            self.expects_continue = False
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._body and self.more_body and not self.disconnected:
            await self._wait()
        if self.disconnected:
            return {"type": "http.disconnect"}
        if self._taken:
            await self._wait_for_disconnect()
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        if self.more_body:
            self._protocol.body_wanted()
        else:
            self._taken = True
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def take_whole_body(self) -> bytes | None:
        """The body if all of it has arrived already and none was received yet, else None."""
        if self.more_body or self._taken:
            return None
        body = bytes(self._body)
        self._body.clear()
        self._taken = True
        return body

    async def send(self, message: Message) -> None:
        """ASGI `send`. Waits while the client takes nothing.

        Raises:
            RuntimeError: The application broke the protocol; the connection is aborted.
        """
        flow = self._protocol.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self.start(message["status"], message["headers"])
        else:
            self.write(message.get("body", b""), more=message.get("more_body", False))

    # --- the answer ---

    @property
    def is_write_paused(self) -> bool:
        """Whether the client takes its answer slower than it comes."""
        return self._protocol.flow.write_paused

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Gives a whole answer to the connection."""
        self._head = self._begin_answer(status, headers)
        self.write(body, more=False)

    def interim(self, status: int, headers: Headers) -> None:
        """Passes an interim answer on, to a client that knows what that is (RFC 9110 §15.2)."""
        # What a side says to a 100-continue is ours to hear: the client's expectation was answered here.
        if self.started or self.disconnected or self.arrival.version == "1.0" or status == HTTPStatus.CONTINUE:
            return
        lines = [_interim_line(status), *(b"%b: %b\r\n" % field for field in headers), b"\r\n"]
        self._protocol.transport.write(b"".join(lines))

    def start(self, status: int, headers: Headers) -> None:
        """Begins the answer. Its head goes out with the first body bytes, at the latest in the loop's next turn."""
        self._head = self._begin_answer(status, headers)
        self._protocol.loop.call_soon(self._flush)

    def _begin_answer(self, status: int, headers: Headers) -> list[bytes]:
        if self.started:
            raise RuntimeError("an answer was started twice")
        self.started = True
        self.expects_continue = False
        if self.more_body or self._protocol.listener.draining:
            # RFC 9112 §9.3: a body that was not read to its end would be taken for the next request.
            self.keep_alive = False
        self._head_only = self.arrival.method == "HEAD"
        head = [_STATUS_LINE[status]]
        for name, value in headers:
            if name == b"content-length":
                if status in _NO_BODY and status != HTTPStatus.NOT_MODIFIED:
                    continue
                self._owed = int(value)
            head += (name, b": ", value, b"\r\n")
        if self._head_only or status in _NO_BODY:
            self._head_only, self._owed = True, 0
        elif self._owed is None:
            if self.arrival.version == "1.1":
                self._chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        return head

    def write(self, data: bytes, *, more: bool) -> None:
        """Gives body bytes to the connection."""
        if not self.started or self.complete:
            raise RuntimeError("body bytes outside an answer")
        out, self._head = self._head or [], None
        if data and not self._head_only:
            if self._chunked:
                out += (b"%x\r\n" % len(data), data, b"\r\n")
            else:
                if self._owed is not None:
                    self._owed -= len(data)
                    if self._owed < 0:
                        self.abort()
                        raise RuntimeError("an answer is longer than it said")
                out.append(data)
        if not more:
            if self._owed:
                self.abort()
                raise RuntimeError("an answer is shorter than it said")
            if self._chunked:
                out += (b"0\r\n", *(b"%b: %b\r\n" % field for field in self.trailers), b"\r\n")
        if out and not self.disconnected:
            self._protocol.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if not more:
            self.complete = True
            self._protocol.answered(self)

    def abort(self) -> None:
        """Resets the connection: the client must not take what it got for a whole answer."""
        self.keep_alive = False
        self._head = None
        self._protocol.abort()

    def answer_refusal(self, refusal: Refusal) -> None:
        """Writes the refusal as the whole answer."""
        answer = problem_of_refusal(refusal)
        if refusal.close:
            self.keep_alive = False
        self._protocol.listener.refused(refusal.code)
        length = (b"content-length", b"%d" % len(answer.body))
        self.start(answer.status, [*answer.headers, (b"date", self._protocol.listener.date), length])
        self.write(answer.body, more=False)

    # --- a tunnel ---

    @property
    def has_early_bytes(self) -> bool:
        """Whether the client sent bytes for a tunnel that was not opened."""
        return bool(self._early)

    def switch(self, headers: Headers) -> None:
        """Tells the client that protocols are switched; from now on bytes pass both ways as they are."""
        self.started = self.has_switched = True
        head = [b"HTTP/1.1 101 Switching Protocols\r\n", *(b"%b: %b\r\n" % field for field in headers), b"\r\n"]
        self._protocol.transport.write(b"".join(head))
        self._protocol.tunnel_moved()
        early, self._early = self._early, b""
        if early:
            self._protocol.flow.resume_reading()
            self.raw_received(early)

    def raw_received(self, data: bytes) -> None:
        """Bytes of the client behind a request to switch protocols."""
        if self.has_switched and self.run is not None:
            self._protocol.tunnel_moved()
            self.run.client_data(data)
        else:
            self._early += data
            if len(self._early) > self._protocol.listener.limits.buffer_bytes:
                self._protocol.flow.pause_reading()

    def write_raw(self, data: bytes) -> None:
        """Gives bytes of a tunnel to the client."""
        self._protocol.tunnel_moved()
        self._protocol.transport.write(data)

    def pause_client(self) -> None:
        """Reads no more from the client: the side is slower."""
        self._protocol.flow.pause_reading()

    def resume_client(self) -> None:
        """Reads on."""
        self._protocol.flow.resume_reading()

    def finish_tunnel(self) -> None:
        """Sends no more through the tunnel, and still listens."""
        transport = self._protocol.transport
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def close_tunnel(self, *, cleanly: bool) -> None:
        """Ends the tunnel: after what was written, or with a reset."""
        if cleanly:
            self._protocol.transport.close()
        else:
            self._protocol.abort()

    # --- inside ---

    def _give_up(self) -> None:
        if self.started and not self.complete:
            self.abort()
        elif self.task is not None and not self.complete:
            self.task.cancel()

    def _flush(self) -> None:
        if self._head is not None and not self.disconnected:
            head, self._head = self._head, None
            self._protocol.transport.write(b"".join(head))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._protocol.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _wait_for_disconnect(self) -> None:
        while not self.disconnected and not self.complete:
            await self._wait()
