"""The express lane: a bounded exchange from the client's socket to a side and back, callback to callback.

No task, no ASGI scope, no queue: what a `Passage` decides is sent when the request is complete, and the answer is
written as it comes. It must not know rules: those stand in `passage`, its parts and core.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Flag, auto

import structlog

from gateway.core.headers import trailers_to_client
from gateway.core.mirroring import Unmirrored
from gateway.core.model import ErrorCode, Headers
from gateway.core.outcome import Outcome
from gateway.core.refusal import Refusal
from gateway.edge.exchange import Exchange
from gateway.edge.fields import interim_fields
from gateway.edge.passage import Passage
from gateway.edge.plane import Plane
from gateway.edge.problem import Problem
from gateway.edge.verdict import outcome_of_fault
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import UpstreamCall, Witness

_log = structlog.get_logger("crossfade.edge")


class ExpressLane:
    """Carries requests whose body is there.

    Args:
        plane: What all requests share.
    """

    __slots__ = ("_plane",)

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def begin(self, exchange: Exchange) -> None:
        """Begins with a request whose head is complete; it is sent when its body is."""
        Run(self._plane, exchange).begin()


class _Half(Flag):
    """The ends of a tunnel that send no more."""

    NONE = 0
    CLIENT = auto()
    SIDE = auto()


class Run:
    """One request on the lane. Implements `ports.AnswerReceiver` and `exchange.Carrier`."""

    __slots__ = (
        "_body",
        "_call",
        "_exchange",
        "_finished",
        "_is_over",
        "_is_swallowing",
        "_passage",
        "_paused_at",
        "_wants_body",
        "_witness",
    )

    def __init__(self, plane: Plane, exchange: Exchange) -> None:
        self._passage = Passage(plane, exchange.arrival)
        self._exchange = exchange
        self._body: bytes | None = None
        self._call: UpstreamCall | None = None
        self._is_over = False
        self._paused_at: float | None = None
        self._is_swallowing = False
        self._wants_body = False
        self._witness: Witness | None = None
        self._finished = _Half.NONE
        exchange.run = self
        self._passage.taker = self._take_back

    def begin(self) -> None:
        """Decides as far as the head tells: a refusal need not wait for the body."""
        self._attempt(self._begin)

    # -- called by the connection to the client ---------------------------------------------------------------------

    def body_complete(self) -> None:
        """The body is there."""
        if not self._is_over:
            self._attempt(self._send)

    def refuse(self, refusal: Refusal) -> None:
        """Answers with a refusal."""
        if self._is_over:
            return
        if refusal.close:
            self._exchange.keep_alive = False
        self._answer(self._passage.refusal(refusal), Outcome.REFUSED)

    def client_ready(self) -> None:
        """The client takes bytes again."""
        if self._paused_at is not None and self._call is not None:
            self._count_pause()
            self._call.resume()

    def client_gone(self) -> None:
        """The client left: the exchange ends at once."""
        if self._is_over:
            return
        if self._call is not None:
            self._call.abandon()
        if self._exchange.has_switched:
            self._is_over = True
        else:
            self._end(Outcome.CLIENT_GONE)

    def client_data(self, data: bytes) -> None:
        """Bytes of the client for the tunnel."""
        if self._call is not None and not self._call.write(data):
            self._exchange.pause_client()

    def client_finished(self) -> None:
        """The client sends no more through the tunnel."""
        if self._call is not None:
            self._call.write_eof()
        self._finish_half(_Half.CLIENT)

    # -- called by the side -----------------------------------------------------------------------------------------

    def interim_received(self, status: int, headers: Headers) -> None:
        """A 1xx answer."""
        self._exchange.interim(status, interim_fields(headers))

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        """A whole answer."""
        passage, verdict = self._passage, self._passage.verdict
        verdict.listen(status, headers)
        verdict.hear(body)
        # Also one that says in words that it failed: the client has no byte of it yet.
        if verdict.has_failed() and passage.falls_back(status=status):
            self._try_old()
            return
        fields = passage.answer_fields(status, headers, length)
        witness, self._witness = self._witness, None
        self._end(verdict.outcome())
        self._exchange.answer(status, fields, body)
        # The client comes first.
        if witness is not None:
            witness.answer_received(status, headers, body)

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:
        """The final head."""
        passage, verdict = self._passage, self._passage.verdict
        if verdict.blames(status) and passage.falls_back(status=status):
            # What new says about it is read to its end and heard by nobody.
            self._is_swallowing = True
            return
        verdict.listen(status, headers)
        passage.begin_answer(headers)
        self._exchange.start(status, passage.answer_fields(status, headers, length))
        if self._witness is not None:
            self._witness.head_received(status, headers)

    def body_received(self, data: bytes) -> None:
        """A piece of the body, or bytes of a tunnel."""
        if self._is_swallowing:
            return
        exchange = self._exchange
        if exchange.has_switched:
            exchange.write_raw(data)
        else:
            exchange.write(data, more=True)
            self._passage.hear(data)
            if self._witness is not None:
                self._witness.body_received(data)
        if exchange.is_write_paused and self._paused_at is None and self._call is not None:
            self._paused_at = self._passage.now()
            self._call.pause()

    def answer_completed(self, trailers: Headers) -> None:
        """The end of the body."""
        if self._is_swallowing:
            self._try_old()
            return
        if trailers:
            self._exchange.trailers = trailers_to_client(trailers)
        witness, self._witness = self._witness, None
        self._end(self._passage.verdict.outcome())
        self._exchange.write(b"", more=False)
        if witness is not None:
            witness.answer_completed()

    def switched(self, headers: Headers) -> None:
        """The side has switched protocols: the answer is given, what follows is a tunnel."""
        fields = self._passage.switch_fields(headers)
        # Its life would say nothing of the side's speed, and in_flight bounds requests.
        self._passage.ended(Outcome.OK)
        self._exchange.switch(fields)

    def side_ready(self) -> None:
        """The side takes bytes of the tunnel again."""
        self._exchange.resume_client()

    def side_finished(self) -> None:
        """The side sends no more through the tunnel."""
        self._finish_half(_Half.SIDE)

    def exchange_failed(self, error: BaseException) -> None:
        """No answer, or no more of it; or the end of a tunnel."""
        if self._exchange.has_switched:
            self._call = None
            self._is_over = True
            self._exchange.close_tunnel(cleanly=_Half.SIDE in self._finished)
        elif isinstance(error, UpstreamError):
            self._fail(error)
        elif isinstance(error, RevokedError):
            self._attempt(self._send_again)
        else:
            self._break(error)

    # ---------------------------------------------------------------------------------------------------------------

    def _attempt(self, step: Callable[[], None]) -> None:
        """Does a step; whatever goes wrong is answered."""
        try:
            step()
        except Refusal as refusal:
            self.refuse(refusal)
        except UpstreamError as error:
            self._fail(error)
        except Exception as error:
            self._break(error)

    def _begin(self) -> None:
        passage = self._passage
        self._wants_body = passage.deciding.decide() is not None
        if self._exchange.more_body:
            self._exchange.await_body(passage.deciding.body_read_s)
        else:
            self._send()

    def _send(self) -> None:
        passage, exchange = self._passage, self._exchange
        body = self._body = exchange.take_whole_body() if exchange.arrival.has_body else None
        if self._wants_body or passage.deciding.is_outdated:
            passage.deciding.decide(body or b"")
        self._dispatch(body)

    def _send_again(self) -> None:
        if self._witness is not None:
            self._witness.withdraw()
            self._witness = None
        self._passage.deciding.decide_again()
        self._dispatch(self._body)

    def _dispatch(self, body: bytes | None) -> None:
        passage = self._passage
        request = passage.request(body)
        self._witness = passage.witness(request)
        self._call = passage.upstream.send(request, passage.deciding.key, self)

    def _finish_half(self, half: _Half) -> None:
        self._finished |= half
        if half is _Half.SIDE:
            self._exchange.finish_tunnel()
        if self._finished == _Half.CLIENT | _Half.SIDE:
            call, self._call = self._call, None
            self._is_over = True
            if call is not None:
                call.finish()
            self._exchange.close_tunnel(cleanly=True)

    def _take_back(self) -> None:
        """New was taken out: what it has not begun to answer is asked of old."""
        if self._is_over or self._exchange.started or self._is_swallowing or not self._passage.falls_back():
            return
        if self._call is not None:
            self._call.abandon()
        self._try_old()

    def _try_old(self) -> None:
        """The safety net: once more, of old."""
        self._is_swallowing = False
        self._lose_witness(Unmirrored.NOT_ACCEPTED)
        self._attempt(lambda: self._dispatch(self._body))

    def _fail(self, error: UpstreamError) -> None:
        if self._is_swallowing:
            self._try_old()
            return
        started = self._exchange.started
        if not started:
            self._passage.tell_absence(error)
            if self._passage.falls_back(error):
                self._try_old()
                return
        outcome = outcome_of_fault(error, started=started)
        if started:
            self._end(outcome)
            self._exchange.abort()
        else:
            self._answer(self._passage.fault(error), outcome)

    def _break(self, error: BaseException) -> None:
        _log.error("express_failed", exc_info=error)
        if self._exchange.started:
            self._end(Outcome.FAILURE)
            self._exchange.abort()
        else:
            self.refuse(Refusal(ErrorCode.INTERNAL, "the gateway failed", close=True))

    def _answer(self, answer: Problem, outcome: Outcome) -> None:
        self._end(outcome)
        self._exchange.answer(answer.status, answer.headers, answer.body)

    def _end(self, outcome: Outcome) -> None:
        self._call = None
        self._is_over = True
        # Else the two would hold each other until the garbage collector comes: memory that is used anew for every
        # request is memory that is never in the processor's cache.
        self._exchange.run = None
        self._count_pause()
        is_gone = outcome is Outcome.CLIENT_GONE
        self._lose_witness(Unmirrored.CLIENT_GONE if is_gone else Unmirrored.NOT_ACCEPTED)
        self._passage.ended(outcome)

    def _count_pause(self) -> None:
        if self._paused_at is not None:
            self._passage.client_waited(self._passage.now() - self._paused_at)
            self._paused_at = None

    def _lose_witness(self, why: Unmirrored) -> None:
        if self._witness is not None:
            witness, self._witness = self._witness, None
            witness.lost(why)
