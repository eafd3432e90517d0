"""Where siblings meet: the protocols that one part of the gateway offers another.

`edge`, `upstream`, `state`, `control` and the others never import each other; `app.py` plugs an implementation of a
protocol into whoever asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.core.compare.evidence import Found
from gateway.core.decide import Doubt
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Deadlines, ErrorCode, Headers, Side
from gateway.core.outcome import Outcome
from gateway.core.snapshot import Plan


@dataclass(slots=True)
class StreamedBody:
    """A request body that is still arriving.

    Attributes:
        length: Its length in bytes if the client declared one, else None (it goes out chunked).
        chunks: The pieces, none of them empty, iterated once. `aclose` is called when no more are wanted.
    """

    length: int | None
    chunks: AsyncIterator[bytes]


@dataclass(slots=True)
class UpstreamRequest:
    """What goes to a side. Framing fields (Connection, Content-Length, Transfer-Encoding) are the upstream client's.

    Attributes:
        method: Upper-case token.
        target: Origin-form, byte-exact as the client sent it.
        headers: End-to-end fields in order, `host` among them.
        body: None = no body and no framing field; bytes (may be empty: `content-length: 0`); or a stream.
        deadlines: Bounds on the phases.
        may_retry: Whether the request may be sent a second time on a fresh connection when a kept-alive one turns out
            to be dead before any byte of an answer (reads; anything when nothing was sent is retried regardless).
        upgrade: The protocols that the client asks to switch to. A side that does makes the exchange a tunnel; only for
            `send`.
        holds: Asked when it had to wait for a connection: whether this is still the side for it. None: it is.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes | StreamedBody | None
    deadlines: Deadlines
    may_retry: bool
    holds: Callable[[], bool] | None = None
    upgrade: bytes | None = None


class UpstreamResponse(Protocol):
    """An answer whose head has arrived.

    Attributes:
        status: Final status code, 200-599.
        headers: Every field as received, lower-case names, hop-by-hop ones included.
        length: Length of the body in bytes, or None when it is chunked or delimited by the end of the connection;
            0 when the answer has none (HEAD, 204, 304), whatever its fields say.
        instance: Name of the instance that answered.
        trailers: The fields behind the body, known once `read` returned `b""`; written like `headers`.
    """

    status: int
    headers: Headers
    length: int | None
    instance: str
    trailers: Headers

    async def read(self) -> bytes:
        """The next piece of the body; `b""` once it is complete.

        Raises:
            UpstreamError: The body ended early, was malformed or took too long.
        """
        ...

    def close(self) -> None:
        """Lets go of the exchange; closes the connection unless the body was read to its end. Idempotent."""
        ...


InterimListener = Callable[[int, Headers], None]
"""Takes the status and the fields of a 1xx answer."""


class AnswerReceiver(Protocol):
    """Who hears of an answer, in callbacks.

    Either `answer_received` alone, or in this order: interim*, head, body*, completed. `exchange_failed` may come at
    any point instead. After a call was abandoned nothing comes any more. `status`, `headers` and `length` are as in
    `UpstreamResponse`.
    """

    def interim_received(self, status: int, headers: Headers) -> None:
        """A 1xx answer other than 101."""

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:
        """The final head."""

    def body_received(self, data: bytes) -> None:
        """A piece of the body, not empty."""

    def answer_completed(self, trailers: Headers) -> None:
        """The end of the body, and the fields behind it."""

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        """A whole answer without trailers, come in one piece: the usual case, and so worth one call."""

    def exchange_failed(self, error: BaseException) -> None:
        """No answer, or no more of it.

        Args:
            error: An `UpstreamError`, a `RevokedError`, or what the request's body raised.
        """


class TunnelReceiver(AnswerReceiver, Protocol):
    """Who hears of an answer that may be a switch of protocols.

    After `switched`, `body_received` brings what comes through the tunnel; it ends with `exchange_failed`.
    """

    def switched(self, headers: Headers) -> None:
        """The side has switched: the answer is 101, and what follows are bytes both ways."""

    def side_ready(self) -> None:
        """The side takes bytes again, after `write` said no."""

    def side_finished(self) -> None:
        """The side sends no more; it may still listen."""


class UpstreamCall(Protocol):
    """An exchange that is running."""

    def write(self, data: bytes) -> bool:
        """Sends bytes through a tunnel. False: the side takes them slowly; wait for `side_ready`."""

    def write_eof(self) -> None:
        """Sends no more through a tunnel, and still listens."""

    def pause(self) -> None:
        """Reads no more of the answer: whoever takes it is slower than the side."""

    def resume(self) -> None:
        """Reads on."""

    def finish(self) -> None:
        """Ends a tunnel over which neither end sends any more."""

    def abandon(self) -> None:
        """Ends the exchange and closes its connection at once; does nothing when it is over."""


class Upstream(Protocol):
    """One side as seen by the data plane."""

    side: Side

    def send(self, request: UpstreamRequest, key: str | None, receiver: AnswerReceiver) -> UpstreamCall:
        """Sends a request without waiting for anything; `receiver` hears of the answer, never before this returns.

        Args:
            request: What to send.
            key: Chooses the instance where `balance: key`.
            receiver: Hears of the answer.

        Raises:
            UpstreamError: Nothing was sent: `no_upstream`, or `bad_request` when it cannot be put on the wire.
        """
        ...

    async def exchange(
        self, request: UpstreamRequest, key: str | None, interim: InterimListener | None = None
    ) -> UpstreamResponse:
        """Sends a request and returns as soon as the head of the answer is there; the upload may still be running.

        Cancelling the call closes the connection at once, whatever the phase.

        Args:
            request: What to send.
            key: Chooses the instance where `balance: key`.
            interim: Called with every 1xx answer but 101, before this returns.

        Raises:
            UpstreamError: No usable answer came.
            RevokedError: Nothing was sent, `request.holds` said no.
        """
        ...


@dataclass(slots=True)
class ServedRead:
    """A read that is on its way to the side that serves it, and might be mirrored.

    Attributes:
        plan: Of its operation.
        side: Who serves it.
        key: Its key, or None.
        request_id: Joins the pair; chooses the sample.
        is_mcp: Whether it came over MCP.
        request: As it goes to the serving side; its body is whole, or there is none.
        hosts: By side, as `Snapshot.hosts`.
        client_host: The `Host` that the client sent, or None.
    """

    plan: Plan
    side: Side
    key: str | None
    request_id: bytes
    is_mcp: bool
    request: UpstreamRequest
    hosts: Mapping[Side, tuple[bytes | None, bytes]]
    client_host: bytes | None


class Witness(Protocol):
    """Hears of the answer to a read that is mirrored, as it passes. Never waits, never fails."""

    def answer_received(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""

    def head_received(self, status: int, headers: Headers) -> None:
        """The final head."""

    def body_received(self, data: bytes) -> None:
        """A piece of the body."""

    def answer_completed(self) -> None:
        """The end of the body."""

    def lost(self, why: Unmirrored) -> None:
        """No answer, or no more of it."""

    def withdraw(self) -> None:
        """Nothing was sent, and the request is decided anew: another witness hears of its answer."""


class Shadow(Protocol):
    """Mirrors reads, as the data plane sees it. Never waits."""

    def witness(self, read: ServedRead) -> Witness | None:
        """Who hears of the answer to a read that is mirrored; None where it is not, which is then counted."""
        ...

    def unmirrored(self, operation: str, why: Unmirrored) -> None:
        """A read is not mirrored."""
        ...


Clock = Callable[[], float]
"""Monotonic seconds."""


class Observer(Protocol):
    """What the data plane reports about each request. Every call is cheap and never waits."""

    def answered(
        self,
        operation: str | None,
        side: Side | None,
        outcome: Outcome,
        seconds: float,
        *,
        is_late: bool = False,
        blamed: str | None = None,
        request_id: bytes = b"",
        is_rehearsal: bool = False,
    ) -> None:
        """A request ended.

        Args:
            operation: Its name, or None when no operation matched.
            side: Who answered, or None when no side was asked.
            outcome: How it ended.
            seconds: From when it was given to the side to the end of the answer (of an event stream, its first event),
                without what the client took to send and to read.
            is_late: `late` was said of it before.
            blamed: Of a failure: its kind, a closed set of words; None of anything else.
            request_id: Of the request.
            is_rehearsal: It is a drill's own.
        """
        ...

    def saved(self, operation: str) -> None:
        """A read that new has failed is asked of old."""
        ...

    def late(self, operation: str) -> None:
        """A request that is still running on new takes too long already."""
        ...

    def refused(self, code: ErrorCode) -> None:
        """The gateway answered itself."""
        ...

    def doubted(self, doubt: Doubt) -> None:
        """Something about the request could not be told."""
        ...

    def forged(self, fields: int) -> None:
        """Header fields that a client had no business sending were removed."""
        ...

    def force_ignored(self) -> None:
        """A `Crossfade-Force` was invalid, expired or not allowed here."""
        ...


class ShadowObserver(Protocol):
    """What the shadow reports. Every call is cheap and never waits."""

    def mirrored(self, operation: str, result: str) -> None:
        """A read was mirrored (`sent`), or was not, or not compared: one of `Unmirrored`."""
        ...

    def mirror_answered(self, operation: str, side: Side, outcome: Outcome, seconds: float) -> None:
        """A side has answered a copy of a read, or has not."""
        ...

    def compared(self, operation: str, result: str, count: int = 1, *, is_rehearsed: bool = False) -> None:
        """Pairs were judged: `match`, `mismatch`, `incomparable:<why>`; `suspected`, then `settled` when they were.

        Args:
            operation: Its name.
            result: What came of them.
            count: How many.
            is_rehearsed: A drill's: detectors see them, the figures do not.
        """
        ...


class EvidenceSink(Protocol):
    """Where differences are kept. Never waits."""

    def note(self, found: Found) -> None:
        """Keeps what was found."""
        ...


class Rehearsals(Protocol):
    """What the shadow has to know of drills."""

    def compares(self, operation: str, key: str | None) -> bool:
        """Whether answers are compared for a drill, whatever the sides can know of each other."""
        ...

    def rehearses(self, operation: str, key: str | None) -> bool:
        """Whether what comes of a comparison now says something of a drill, and not of the sides."""
        ...


class Floor(Protocol):
    """Hears at once what needs no statistics."""

    def answered(self) -> None:
        """New answered."""
        ...

    def absent(self) -> None:
        """New could not be reached, or did not answer in time."""
        ...


class Drilled(Protocol):
    """A drill in the way of new."""

    def instead(self, operation: str, key: str | None, side: Upstream) -> Upstream:
        """The side that a request of an operation goes to in place of new."""
        ...
