"""What workers tell each other through a real Redis: whatever stands in it, and whatever it does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.core.detect.reports import Report, Said
from gateway.core.model import Side
from gateway.state.connect import RedisClient, connect
from gateway.state.signals import SignalStore
from tests.support.raw_upstream import Peer
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get
from tests.support.waiting import until
from tests.support.worker import WorkerProcess

HISTOGRAMS = {"a": {"new": [5, 2], "old": [7, 1]}, "b": {"copied": [9, 3]}}
SAID = Said({"a": [1, 0]}, {"a": [3, 1]}, HISTOGRAMS, ["a", "b"])


@pytest.fixture
async def own(redis: RedisProcess) -> AsyncIterator[RedisClient]:
    connection = connect(redis.url)
    yield connection
    await connection.aclose()


async def test_each_hears_of_the_others_what_it_asked_for(own: RedisClient) -> None:
    one, two = SignalStore(own, "shop", "w0:1"), SignalStore(own, "shop", "w1:1")
    await one.swap(SAID)
    await two.swap(Said())
    await two.swap(SAID)
    heard = await one.swap(Said({}, {}, {}, ["a"]))
    assert heard is not None
    assert heard.reports == {"w1:1": Report(2, {"a": [1, 0]}, {"a": [3, 1]})}
    again = await one.swap(Said({}, {}, {}, ["a"]))
    assert again is not None
    assert list(again.histograms) == ["w1:1"]
    assert {source: list(pairs) for source, pairs in again.histograms["w1:1"]["a"].items()} == HISTOGRAMS["a"]


async def test_who_is_forgotten_leaves_nothing(own: RedisClient) -> None:
    one, two = SignalStore(own, "shop", "w0:1"), SignalStore(own, "shop", "w1:1")
    await one.swap(SAID)
    await two.swap(SAID)
    await one.forget(["w1:1"])
    assert await own.hkeys("cf:shop:signals") == [b"w0:1"]
    assert sorted(await own.hkeys("cf:shop:histograms")) == [b"a w0:1", b"b w0:1"]


async def test_what_cannot_be_read_is_named_and_the_rest_is_heard(own: RedisClient) -> None:
    one, two = SignalStore(own, "shop", "w0:1"), SignalStore(own, "shop", "w1:1")
    await two.swap(SAID)
    await one.swap(Said())
    for process, text in (
        (b"x:1", b"[7, null]"),
        (b"x:2", b"no json"),
        (b"x:3", b"\xff"),
        (b"\xfe:1", b'[7, {"a": 7}]'),
    ):
        await own.hset("cf:shop:signals", process, text)
    await own.hset("cf:shop:histograms", "a w1:1", b"odd")
    heard = await one.swap(SAID)
    assert heard is not None
    assert list(heard.reports) == ["w1:1"]
    assert heard.unreadable == {"x:1", "x:2", "x:3", "\ufffd:1"}
    assert list(heard.histograms["w1:1"]) == ["b"]


async def test_what_was_learnt_is_there_for_the_next(own: RedisClient) -> None:
    await SignalStore(own, "shop", "w0:1").keep({"a": {"dispersion": [1, 2.0, 3.0], "p95_s": {"7": 0.1}}})
    await own.hset("cf:shop:learnt", "b", b"no json")
    assert await SignalStore(own, "shop", "w1:1").learnt() == {
        "a": {"dispersion": [1, 2.0, 3.0], "p95_s": {"7": 0.1}},
        "b": None,
    }


async def breaks(peer: Peer) -> None:
    while True:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n")


async def ask_until_old_answers(worker: WorkerProcess) -> int:
    """Returns how many requests failed until then."""
    failed = 0
    async with client(worker.port) as c:
        while True:
            answer = await c.ask(get("/items/1", "x-key: k"))
            if answer.headers[b"crossfade-side"] == b"old":
                return failed
            failed += 1
            assert failed < 20_000


async def test_an_odd_report_in_redis_keeps_no_worker_from_judging(
    worker: WorkerProcess, own: RedisClient, sides: dict[Side, StubSide]
) -> None:
    await own.hset("cf:shop:signals", "x:1", b'[7, {"item.get": [1, null]}]')
    sides[Side.NEW].script = breaks
    assert await ask_until_old_answers(worker) >= 10
    await until(lambda: worker.counters.get("killed") == ["operation:item.get"], "it is told")


async def test_a_frozen_redis_keeps_no_worker_from_judging(
    worker: WorkerProcess, redis: RedisProcess, sides: dict[Side, StubSide]
) -> None:
    await until(lambda: bool(worker.counters.get("guards")), "it has begun")
    redis.freeze()
    try:
        sides[Side.NEW].script = breaks
        assert await ask_until_old_answers(worker) >= 10
    finally:
        redis.resume()
