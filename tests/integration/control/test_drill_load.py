"""The client that a drill's load is sent with, against sides that answer well, badly and not at all."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.control.drill.client import LoadClient, NoAnswerError
from gateway.control.drill.load import Flow, Load
from gateway.core.drill import DrillRequest
from gateway.core.model import Side
from tests.support.raw_upstream import Peer, RawUpstream
from tests.support.waiting import until

GET = DrillRequest("GET", "/items/1?k=v", {"x-key": "k"}, b"", "k")
POST = DrillRequest("POST", "/find", {"x-key": "k", "content-type": "application/json"}, b'{"a": 1}', "k")
OK = b"HTTP/1.1 200 OK\r\ncrossfade-side: new\r\ncontent-length: 2\r\n\r\nok"


def answers(*responses: bytes) -> RawUpstream:
    """A side that gives these answers in turn, the last one for ever."""
    left = list(responses)

    async def serve(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return RawUpstream(serve)


async def test_answers_on_one_connection() -> None:
    chunked = b"HTTP/1.1 404 x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with answers(OK, chunked, early + OK) as side:
        client = LoadClient(f"http://127.0.0.1:{side.port}", 5.0)
        first = await client.ask(GET)
        assert (first.status, first.headers[b"crossfade-side"], first.body) == (200, b"new", b"ok")
        second = await client.ask(POST, {"idempotency-key": "i"})
        assert (second.status, second.body) == (404, b"abc")
        assert (await client.ask(GET)).status == 200
        assert len(side.peers) == 1
        client.close()


@pytest.mark.parametrize("response", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"])
async def test_what_is_no_answer(response: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(response)

    async with RawUpstream(serve) as side:
        with pytest.raises(NoAnswerError):
            await LoadClient(f"http://127.0.0.1:{side.port}", 5.0).ask(GET)


async def test_nobody_listens() -> None:
    with pytest.raises(NoAnswerError):
        await LoadClient("http://127.0.0.1:9", 5.0).ask(GET)


async def test_it_waits_no_longer_than_it_may() -> None:
    async def serve(peer: Peer) -> None:
        await peer.receive_request()
        await asyncio.Event().wait()

    async with RawUpstream(serve) as side:
        with pytest.raises(NoAnswerError):
            await LoadClient(f"http://127.0.0.1:{side.port}", 0.05).ask(GET)


async def test_a_load_is_counted_and_ends() -> None:
    broken = b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n"
    async with answers(OK, OK, broken, OK) as side:
        load = Load(f"http://127.0.0.1:{side.port}", [Flow(Side.NEW, 200.0, [GET, POST])], 5.0, time.monotonic)
        load.start()
        await until(lambda: load.is_well(since=3, answers=5), "it goes on well")
        await load.stop()
        assert load.failed == 1
        assert load.sent == len(load.samples)
        assert {sample.side for sample in load.samples} == {"new", ""}
        assert not load.is_owed(since=0)
        assert not load.is_well(since=load.sent, answers=1)
