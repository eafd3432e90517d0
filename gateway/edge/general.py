"""The general lane: a plain ASGI callable, correct for every exchange, under any ASGI server.

Moves the bytes of a `Passage` both ways as they come, with a task for each request. It must not know Redis, disk or
DNS, and awaits nothing but its client and its side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from gateway.core.headers import trailers_to_client
from gateway.core.mirroring import Unmirrored
from gateway.core.model import ErrorCode, Headers
from gateway.core.outcome import Outcome
from gateway.core.refusal import Refusal
from gateway.edge.arrival import Arrival, too_large
from gateway.edge.exchange import Exchange
from gateway.edge.fields import interim_fields
from gateway.edge.passage import Passage
from gateway.edge.plane import Plane
from gateway.edge.problem import Problem
from gateway.edge.verdict import outcome_of_fault
from gateway.edge.watch import ClientGoneError, watched
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import StreamedBody, UpstreamRequest, UpstreamResponse, Witness

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_NOT_MODIFIED: Final = 304
_BODY_END: Final = {"type": "http.response.body", "body": b"", "more_body": False}


class GeneralLane:
    """The data plane as an ASGI application.

    Args:
        plane: What all requests share.
    """

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carries one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the data plane speaks HTTP, not {scope['type']}")
        exchange = scope.get("extensions", {}).get("crossfade")
        if isinstance(exchange, Exchange):
            # Our own connection cancels this task when its client leaves.
            await _Carrier(self.plane, exchange.arrival, receive, send, exchange).run()
        else:
            arrival = _arrival_of(scope)
            await watched(lambda r: _Carrier(self.plane, arrival, r, send, None).run(), receive)


class _TakenBackError(Exception):
    """New was taken out while it was waited for."""


class _Carrier:
    """Carries one request."""

    __slots__ = (
        "_arrival",
        "_asking",
        "_body",
        "_exchange",
        "_is_repeatable",
        "_is_taken_back",
        "_passage",
        "_plane",
        "_receive",
        "_send",
        "_started",
        "_witness",
    )

    def __init__(self, plane: Plane, arrival: Arrival, receive: Receive, send: Send, exchange: Exchange | None) -> None:
        self._plane = plane
        self._arrival = arrival
        self._passage = Passage(plane, arrival)
        self._receive = receive
        self._send = send
        self._exchange = exchange
        self._body: bytes | None = None
        self._started = False
        self._is_repeatable = False
        self._is_taken_back = False
        self._asking: asyncio.Task[Any] | None = None
        self._witness: Witness | None = None

    async def run(self) -> None:
        """Carries the request and reports how it ended."""
        outcome = Outcome.CLIENT_GONE
        try:
            outcome = await self._carry()
        except Refusal as refusal:
            outcome = Outcome.REFUSED
            await self._refuse(refusal)
        except UpstreamError as error:
            outcome = outcome_of_fault(error, started=self._started)
            if self._started:
                self._abort()
            else:
                await self._answer(self._passage.fault(error))
        except ClientGoneError:
            pass
        except asyncio.CancelledError:
            # By the connection, which can read no more of the request; here it is known what shape the answer has.
            told = self._exchange.refusal if self._exchange is not None else None
            if told is not None and not self._started:
                outcome = Outcome.REFUSED
                await self._refuse(told)
            raise
        finally:
            self._passage.ended(outcome)
            is_gone = outcome is Outcome.CLIENT_GONE
            self._lose_witness(Unmirrored.CLIENT_GONE if is_gone else Unmirrored.NOT_ACCEPTED)

    async def _ask(self, request: UpstreamRequest) -> UpstreamResponse:
        """Asks the side that was decided for.

        Raises:
            UpstreamError: No usable answer came.
            RevokedError: Nothing was sent.
            _TakenBackError: New was taken out meanwhile, and old is to be asked.
        """
        passage = self._passage
        self._asking = asyncio.current_task()
        try:
            return await passage.upstream.exchange(request, passage.deciding.key, self._pass_interim)
        except asyncio.CancelledError:
            if self._is_taken_back and self._asking is not None and self._asking.uncancel() == 0:
                raise _TakenBackError from None
            raise
        finally:
            self._asking = None
            self._is_taken_back = False

    def _take_back(self) -> None:
        """New was taken out: what it has not begun to answer is asked of old."""
        if (
            self._asking is None
            or self._is_taken_back
            or not self._passage.falls_back(is_repeatable=self._is_repeatable)
        ):
            return
        self._is_taken_back = True
        self._asking.cancel()

    async def _carry(self) -> Outcome:
        passage = self._passage
        if self._exchange is None and _asks_for_websocket(self._arrival.headers):
            raise Refusal(ErrorCode.NOT_IMPLEMENTED, "under this server, tunnels cannot be carried")
        limit = passage.deciding.decide()
        if limit is not None:
            passage.deciding.decide(await self._read_body(limit))
        body = self._body_to_send()
        is_repeatable = self._is_repeatable = not isinstance(body, StreamedBody)
        passage.taker = self._take_back
        while True:
            try:
                request = passage.request(body)
                self._witness = passage.witness(request)
                response = await self._ask(request)
                status = response.status
                if not passage.verdict.blames(status) or not passage.falls_back(
                    status=status, is_repeatable=is_repeatable
                ):
                    break
                response.close()
                self._lose_witness(Unmirrored.NOT_ACCEPTED)
            except _TakenBackError:
                self._lose_witness(Unmirrored.NOT_ACCEPTED)
            except RevokedError:
                if self._witness is not None:
                    self._witness.withdraw()
                    self._witness = None
                passage.deciding.decide_again()
            except UpstreamError as error:
                passage.tell_absence(error)
                if not passage.falls_back(error, is_repeatable=is_repeatable):
                    raise
                self._lose_witness(Unmirrored.NOT_ACCEPTED)
        try:
            await self._relay(response)
        finally:
            response.close()
        return passage.verdict.outcome()

    # --- the request's body ---

    async def _read_body(self, limit: int) -> bytes:
        whole = self._exchange.take_whole_body() if self._exchange is not None and self._body is None else None
        if whole is not None:
            if len(whole) > limit:
                raise too_large(limit)
            self._body = whole
        if self._body is None:
            try:
                async with asyncio.timeout(self._plane.settings.body_read_s):
                    self._body = await self._collect(limit)
            except TimeoutError as exc:
                message = "the body did not arrive in time"
                raise Refusal(ErrorCode.REQUEST_TIMEOUT, message, close=True) from exc
        return self._body

    async def _collect(self, limit: int) -> bytes:
        pieces = bytearray()
        async for piece in self._pieces():
            pieces += piece
            if len(pieces) > limit:
                raise too_large(limit)
        return bytes(pieces)

    async def _pieces(self) -> AsyncIterator[bytes]:
        more = True
        passage = self._passage
        while more:
            asked_at = passage.now()
            message = await self._receive()
            passage.client_waited(passage.now() - asked_at)
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def _bounded_pieces(self, limit: int) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._pieces():
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            yield piece

    def _body_to_send(self) -> bytes | StreamedBody | None:
        if not self._arrival.has_body:
            return None
        limit = self._passage.deciding.body_limit
        body = self._body
        if body is None and self._exchange is not None:
            body = self._exchange.take_whole_body()
        if body is None:
            pieces = self._pieces() if limit is None else self._bounded_pieces(limit)
            return StreamedBody(self._arrival.length, pieces)
        if limit is not None and len(body) > limit:
            raise too_large(limit)
        return body

    # --- the answer ---

    def _pass_interim(self, status: int, headers: Headers) -> None:
        # ASGI has no word for it.
        if self._exchange is not None:
            self._exchange.interim(status, interim_fields(headers))

    async def _relay(self, response: UpstreamResponse) -> None:
        length = response.length
        passage = self._passage
        passage.verdict.listen(response.status, response.headers)
        passage.begin_answer(response.headers)
        headers = passage.answer_fields(response.status, response.headers, length)
        if self._exchange is None and response.status == _NOT_MODIFIED:
            # Other servers take the length of a 304 at its word, miss the body and drop the connection.
            headers = [item for item in headers if item[0] != b"content-length"]
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        self._started = True
        witness = self._witness
        if witness is not None:
            witness.head_received(response.status, response.headers)
        while piece := await response.read():
            if length is not None:
                length -= len(piece)
            passage.hear(piece)
            sent_at = passage.now()
            await self._send({"type": "http.response.body", "body": piece, "more_body": length != 0})
            passage.client_waited(passage.now() - sent_at)
            if witness is not None:
                witness.body_received(piece)
            if length == 0:
                # Learn that the side's message is really over before its connection is used again.
                await response.read()
                self._tell_end()
                return
        if response.trailers and self._exchange is not None:
            self._exchange.trailers = trailers_to_client(response.trailers)
        await self._send(_BODY_END)
        self._tell_end()

    def _tell_end(self) -> None:
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.answer_completed()

    def _lose_witness(self, why: Unmirrored) -> None:
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.lost(why)

    async def _refuse(self, refusal: Refusal) -> None:
        answer = self._passage.refusal(refusal)
        if self._started:
            self._abort()
            return
        if refusal.close and self._exchange is not None:
            self._exchange.keep_alive = False
        await self._answer(answer)

    async def _answer(self, answer: Problem) -> None:
        await self._send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def _abort(self) -> None:
        """Never a clean-looking end of an answer that has begun."""
        if self._exchange is not None:
            self._exchange.abort()
        else:
            raise AnswerCutError("the answer cannot be completed")


class AnswerCutError(Exception):
    """Tells a foreign ASGI server to cut the connection in mid-answer."""


def _asks_for_websocket(headers: Headers) -> bool:
    return any(name == b"upgrade" and value.strip(b" \t").lower() == b"websocket" for name, value in headers)


def _arrival_of(scope: Scope) -> Arrival:
    """The request as far as ASGI can tell; a bare trailing `?` is lost."""
    headers = scope["headers"]
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    lengths = [value for name, value in headers if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    return Arrival(
        method=scope["method"],
        target=raw_path + b"?" + query if query else raw_path,
        headers=headers,
        peer=(scope.get("client") or ("", 0))[0],
        scheme=scope["scheme"],
        version=scope["http_version"],
        length=int(lengths[0]) if lengths else None if chunked else 0,
        has_body=bool(lengths) or chunked,
    )
