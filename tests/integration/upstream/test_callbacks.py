"""A connection used without a task: callbacks in, callbacks out, as a fast path would."""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf

import pytest

from gateway.core.model import Headers
from gateway.errors import UpstreamError
from gateway.ports import UpstreamRequest
from gateway.upstream import DropReason
from gateway.upstream.connection import Connection
from gateway.upstream.dial import Dialer
from gateway.upstream.framing import write_request_head
from gateway.upstream.pool import Pool
from tests.integration.upstream.harness import LIMITS, PATIENT, get, tcp
from tests.support.raw_upstream import PATIENCE_S, Peer, RawUpstream, answer, replies


class Recorder:
    """A sink that writes down what it hears, and gives up at a chosen event."""

    def __init__(self, gives_up_at: str = "") -> None:
        self.events: list[str] = []
        self.fields: list[Headers] = []
        self.length: int | None = None
        self.body = b""
        self.trailers: Headers = []
        self.is_stale = False
        self.error: BaseException | None = None
        self.connection: Connection | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gives_up_at = gives_up_at

    def interim_received(self, status: int, headers: Headers) -> None:
        self.fields.append(headers)
        self._note(f"interim {status}")

    def head_received(self, status: int, headers: Headers, length: int | None) -> None:
        self.fields.append(headers)
        self.length = length
        self._note(f"head {status}")

    def body_received(self, data: bytes) -> None:
        self.body += data
        self._note("body")

    def answer_completed(self, trailers: Headers) -> None:
        self.trailers = trailers
        self._note("completed")
        self.ended.set_result(None)

    def answer_received(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        self.head_received(status, headers, length)
        if body:
            self.body_received(body)
        self.answer_completed([])

    def switched(self, headers: Headers) -> None:
        self.fields.append(headers)
        self._note("switched")

    def side_ready(self) -> None:
        self._note("ready")

    def side_finished(self) -> None:
        self._note("finished")

    def exchange_failed(self, error: BaseException, *, is_stale: bool) -> None:
        self.error = error
        self.is_stale = is_stale
        self._note("failed")
        self.ended.set_result(None)

    def _note(self, event: str) -> None:
        self.events.append(event)
        if event == self._gives_up_at:
            assert self.connection is not None
            self.connection.abandon()
            self.ended.set_result(None)


def pool_of(server: RawUpstream) -> Pool:
    instance = tcp(server.port)
    return Pool(instance.name, Dialer(instance, None, 30.0), LIMITS, Counter())


def begin(connection: Connection, sink: Recorder, request: UpstreamRequest) -> None:
    sink.connection = connection
    connection.start(request, write_request_head(request), sink, inf)


async def test_exchange_follows_exchange_in_callbacks_alone() -> None:
    async with RawUpstream(replies(answer(b"ok"))) as server:
        pool = pool_of(server)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bodies: list[bytes] = []

        class Chained(Recorder):
            def answer_completed(self, trailers: Headers) -> None:
                bodies.append(self.body + b"".join(value for _, value in trailers))
                if len(bodies) == 100:
                    done.set_result(None)
                    return
                # The connection went back before its sink was told, so it is there to be taken.
                connection = pool.take()
                assert connection is not None
                begin(connection, Chained(), get())

        begin(await pool.acquire(inf), Chained(), get())
        await asyncio.wait_for(done, PATIENCE_S)
        assert bodies == [b"ok"] * 100
        assert len(server.peers) == 1
        await pool.aclose()


async def test_a_sink_hears_events_in_order() -> None:
    reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(b"ok")
    async with RawUpstream(replies(reply)) as server:
        pool = pool_of(server)
        sink = Recorder()
        begin(await pool.acquire(inf), sink, get())
        await asyncio.wait_for(sink.ended, PATIENCE_S)
        assert sink.events == ["interim 100", "interim 103", "head 200", "body", "completed"]
        assert sink.fields == [[], [(b"link", b"x")], [(b"content-length", b"2")]]
        assert sink.length == 2
        await pool.aclose()


@pytest.mark.parametrize("event", ["interim 100", "head 200", "body"])
async def test_a_sink_may_give_up_in_any_call_and_hears_no_more(event: str) -> None:
    reply = b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"ok")
    async with RawUpstream(replies(reply)) as server:
        pool = pool_of(server)
        sink = Recorder(gives_up_at=event)
        begin(await pool.acquire(inf), sink, get())
        await asyncio.wait_for(sink.ended, PATIENCE_S)
        assert sink.events[-1] == event
        assert sink.error is None
        assert pool.drops == {DropReason.CANCELLED: 1}
        assert (pool.in_use, pool.idle) == (0, 0)
        await pool.aclose()


async def test_a_sink_that_failed_may_start_again_on_another_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        if peer.number:
            await peer.send(answer(b"second"))
            await peer.wait_closed()

    async with RawUpstream(script) as server:
        pool = pool_of(server)
        first, second = Recorder(), Recorder()
        begin(await pool.acquire(inf), first, get())
        await asyncio.wait_for(first.ended, PATIENCE_S)
        assert isinstance(first.error, UpstreamError)
        assert not first.is_stale
        begin(await pool.acquire(inf), second, get(deadlines=PATIENT))
        await asyncio.wait_for(second.ended, PATIENCE_S)
        assert second.body == b"second"
        await pool.aclose()
