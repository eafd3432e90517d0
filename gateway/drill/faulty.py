"""New with a fault: what a drill puts between the edge and the side.

Touches nothing that is not drilled, and sends nothing to new that it answers in its place: a write that fails here has
not happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.core.drill import Fault
from gateway.core.model import ErrorCode, Headers, Side
from gateway.errors import Phase, UpstreamError
from gateway.ports import AnswerReceiver, InterimListener, Upstream, UpstreamCall, UpstreamRequest, UpstreamResponse

_NAME: Final = "drill"
_HANGS_AT_MOST_S: Final = 600.0
_BODY: Final = b'{"code": "drill", "message": "a drill makes this request fail", "retryable": true}'
_FIELDS: Final[Headers] = [
    (b"content-type", b"application/problem+json"),
    (b"content-length", b"%d" % len(_BODY)),
]
_STATUS: Final = 503
_OTHER_STATUS: Final = 418
"""No side answers so, and old never agrees with it."""


class FaultySide:
    """Implements `ports.Upstream` over the real side."""

    def __init__(self, inner: Upstream, fault: Fault, delay_s: float) -> None:
        """Nothing is touched before it is asked.

        Args:
            inner: The real one.
            fault: What goes wrong; not `mismatch`.
            delay_s: Of `slow`.
        """
        self.side = inner.side
        self._inner = inner
        self._fault = fault
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()

    def send(self, request: UpstreamRequest, key: str | None, receiver: AnswerReceiver) -> UpstreamCall:
        """See the port."""
        if request.upgrade is not None:
            return self._inner.send(request, key, receiver)
        call = _FaultyCall()
        match self._fault:
            case Fault.ERRORS:
                call.handle = self._loop.call_soon(receiver.answer_received, _STATUS, [*_FIELDS], len(_BODY), _BODY)
            case Fault.DOWN:
                call.handle = self._loop.call_soon(receiver.exchange_failed, _refused())
            case Fault.HANG:
                call.handle = self._loop.call_later(_hangs_s(request), receiver.exchange_failed, _timed_out())
            case _:
                call.handle = self._loop.call_later(self._delay_s, self._send_late, request, key, receiver, call)
        return call

    def _send_late(
        self, request: UpstreamRequest, key: str | None, receiver: AnswerReceiver, call: _FaultyCall
    ) -> None:
        try:
            call.inner = self._inner.send(request, key, receiver)
        except UpstreamError as error:
            receiver.exchange_failed(error)

    async def exchange(
        self, request: UpstreamRequest, key: str | None, interim: InterimListener | None = None
    ) -> UpstreamResponse:
        """See the port."""
        match self._fault:
            case Fault.ERRORS if request.upgrade is None:
                return _FaultyAnswer()
            case Fault.DOWN if request.upgrade is None:
                raise _refused()
            case Fault.HANG if request.upgrade is None:
                await asyncio.sleep(_hangs_s(request))
                raise _timed_out()
            case Fault.SLOW:
                await asyncio.sleep(self._delay_s)
        return await self._inner.exchange(request, key, interim)


class AlteredSide:
    """Another side whose answers to copies differ; implements `ports.Upstream` for whoever sends copies."""

    def __init__(self, inner: Upstream, touches: Callable[[str | None], bool]) -> None:
        """Nothing is touched before it is asked.

        Args:
            inner: The real one.
            touches: Whether answers to copies of a key's requests are altered.
        """
        self.side: Side = inner.side
        self._inner = inner
        self._touches = touches

    def send(self, request: UpstreamRequest, key: str | None, receiver: AnswerReceiver) -> UpstreamCall:
        """See the port."""
        return self._inner.send(request, key, _Altering(receiver) if self._touches(key) else receiver)

    async def exchange(
        self, request: UpstreamRequest, key: str | None, interim: InterimListener | None = None
    ) -> UpstreamResponse:
        """See the port."""
        found = await self._inner.exchange(request, key, interim)
        if self._touches(key):
            found.status = _OTHER_STATUS
        return found


class _Altering:
    """Gives an answer on with another status."""

    def __init__(self, receiver: AnswerReceiver) -> None:
        self._receiver = receiver
        self.interim_received = receiver.interim_received
        self.body_received = receiver.body_received
        self.answer_completed = receiver.answer_completed
        self.exchange_failed = receiver.exchange_failed

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:  # noqa: ARG002 - replaced
        self._receiver.head_received(_OTHER_STATUS, headers, length)

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:  # noqa: ARG002
        self._receiver.answer_received(_OTHER_STATUS, headers, length, body)


class _FaultyCall:
    """A call that new has not heard of, or not yet."""

    def __init__(self) -> None:
        self.handle: asyncio.Handle | None = None
        self.inner: UpstreamCall | None = None

    def write(self, data: bytes) -> bool:
        return self.inner.write(data) if self.inner is not None else True

    def write_eof(self) -> None:
        if self.inner is not None:
            self.inner.write_eof()

    def pause(self) -> None:
        if self.inner is not None:
            self.inner.pause()

    def resume(self) -> None:
        if self.inner is not None:
            self.inner.resume()

    def finish(self) -> None:
        if self.inner is not None:
            self.inner.finish()

    def abandon(self) -> None:
        if self.handle is not None:
            self.handle.cancel()
        if self.inner is not None:
            self.inner.abandon()


class _FaultyAnswer:
    """The answer of `errors`."""

    def __init__(self) -> None:
        self.status = _STATUS
        self.headers: Headers = [*_FIELDS]
        self.length: int | None = len(_BODY)
        self.instance = _NAME
        self.trailers: Headers = []
        self._is_read = False

    async def read(self) -> bytes:
        is_read, self._is_read = self._is_read, True
        return b"" if is_read else _BODY

    def close(self) -> None:
        self._is_read = True


def _hangs_s(request: UpstreamRequest) -> float:
    deadlines = request.deadlines
    bounds = [bound for bound in (deadlines.total_s, deadlines.first_byte_s) if bound is not None]
    return min([*bounds, _HANGS_AT_MOST_S])


def _refused() -> UpstreamError:
    detail = "a drill keeps new away"
    return UpstreamError(ErrorCode.UPSTREAM_REFUSED, upstream=_NAME, phase=Phase.CONNECT, detail=detail, sent=False)


def _timed_out() -> UpstreamError:
    detail = "a drill makes new hang"
    return UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, upstream=_NAME, phase=Phase.TOTAL, detail=detail, sent=True)
