"""A worker carries requests to the side that the policy says."""

from __future__ import annotations

import signal
import socket

from gateway.core.model import Side
from tests.support.sides import StubSide, client, get, post
from tests.support.waiting import until
from tests.support.worker import Bench, WorkerProcess, bound_socket, ended

Sides = dict[Side, StubSide]


async def test_a_key_stays_on_its_side_and_both_sides_get_some(worker: WorkerProcess, sides: Sides) -> None:
    async with client(worker.port) as c:
        answers = {f"k{n}": (await c.ask(get("/items/1", f"x-key: k{n}"))) for n in range(40)}
        again = {f"k{n}": (await c.ask(get("/items/2", f"x-key: k{n}"))) for n in range(40)}
    assert {key: a.body for key, a in answers.items()} == {key: a.body for key, a in again.items()}
    assert {a.body for a in answers.values()} == {b"old", b"new"}
    assert all(a.headers[b"crossfade-side"] == a.body for a in answers.values())


async def test_a_request_reaches_the_side_with_what_it_must_carry(worker: WorkerProcess, sides: Sides) -> None:
    async with client(worker.port) as c:
        answer = await c.ask(post("/items/7?a=%20b", b"{}", "x-key: k1", "crossfade-auth: forged", method="PUT"))
    side = sides[Side(answer.body.decode())]
    request = side.requests[0]
    assert request.line == b"PUT /items/7?a=%20b HTTP/1.1"
    assert request.body == b"{}"
    assert request.field(b"host") == [b"shop.example"]
    assert request.field(b"crossfade-auth") == [b"internal"]
    assert request.field(b"x-forwarded-for") == [b"127.0.0.1"]
    for name in (b"via", b"traceparent", b"x-request-id", b"idempotency-key", b"crossfade-request-time"):
        assert len(request.field(name)) == 1, name


async def test_a_worker_counts_what_it_carried(worker: WorkerProcess, sides: Sides) -> None:
    async with client(worker.port) as c:
        for n in range(10):
            await c.ask(get("/items/1", f"x-key: k{n}"))
    await until(lambda: _answered(worker) == 10)


def _answered(worker: WorkerProcess) -> int:
    sides = worker.counters.get("operations", {}).get("item.get", {})
    return sum(sum(cell["outcomes"].values()) for cell in sides.values())


async def test_a_worker_without_a_policy_is_not_ready_and_refuses(place: Bench, sides: Sides) -> None:
    place.migration.write_text(place.migration.read_text().replace('"shop"', '"unbooted"'))
    worker = await place.start(ready=False)
    await until(lambda: worker.counters)
    async with client(worker.port) as c:
        answer = await c.ask(get("/items/1", "x-key: a"))
    assert (answer.status, answer.json()["code"]) == (503, "policy_unavailable")
    assert answer.headers[b"retry-after"]
    assert not worker.ready.is_set()


async def test_a_drained_worker_finishes_and_ends_with_zero(place: Bench, sides: Sides) -> None:
    worker = await place.start()
    async with client(worker.port) as c:
        await c.ask(get("/items/1", "x-key: a"))
        worker.process.send_signal(signal.SIGTERM)
        assert await c.rest() == b""
    assert await ended(worker) == 0


async def test_a_worker_ends_when_its_supervisor_is_gone(place: Bench) -> None:
    worker = await place.start()
    worker.channel.close()
    assert await ended(worker) != 0


async def test_a_successor_on_the_same_socket_takes_over_without_a_failed_request(place: Bench, sides: Sides) -> None:
    sock = bound_socket()
    first = await place.start(sock=sock)
    async with client(first.port) as kept:
        await kept.ask(get("/items/1", "x-key: a"))
        second = await place.start("gateway-0", sock=sock)
        first.channel.send({"type": "drain", "linger": True})
        for _ in range(50):
            async with client(second.port) as c:
                assert (await c.ask(get("/items/1", "x-key: a", "connection: close"))).status == 200
        # An idle connection may ask once more, and is then told to go.
        told = False
        while not told:
            answer = await kept.ask(get("/items/1", "x-key: a"))
            assert answer.status == 200
            told = answer.headers.get(b"connection") == b"close"
    assert await ended(first) == 0
    sock.close()


async def test_a_reload_with_a_broken_file_changes_nothing(place: Bench, sides: Sides) -> None:
    worker = await place.start()
    await until(lambda: worker.counters)
    before = worker.counters["definition"]
    good = place.migration.read_text()
    place.migration.write_text(good.replace('"items"', '"missing"', 1))
    worker.channel.send({"type": "reload"})
    place.migration.write_text("operations: [")
    worker.channel.send({"type": "reload"})
    async with client(worker.port) as c:
        assert (await c.ask(get("/items/1", "x-key: a"))).status == 200
    assert worker.counters["definition"] == before


async def test_a_reload_takes_over_new_instances(place: Bench, sides: Sides) -> None:
    worker = await place.start()
    async with client(worker.port) as c:
        await c.ask(get("/items/1", "x-key: a"))
        text = place.migration.read_text()
        swapped = text.replace(sides[Side.OLD].url, "X").replace(sides[Side.NEW].url, sides[Side.OLD].url)
        place.migration.write_text(swapped.replace("X", sides[Side.NEW].url))
        before = worker.counters["definition"]
        worker.channel.send({"type": "reload"})
        await until(lambda: worker.counters["definition"] != before)
        answer = await c.ask(get("/items/1", "x-key: a"))
    assert answer.headers[b"crossfade-side"] != answer.body


async def test_a_busy_port_is_shared_by_several_workers(place: Bench, sides: Sides) -> None:
    with bound_socket() as one, bound_socket(one.getsockname()[1]) as two:
        assert isinstance(two, socket.socket)
        await place.start("gateway-0", sock=one)
        await place.start("gateway-1", sock=two)
        for n in range(30):
            async with client(place.workers[0].port) as c:
                assert (await c.ask(get("/items/1", f"x-key: k{n}", "connection: close"))).status == 200
    assert len(sides[Side.OLD].requests) + len(sides[Side.NEW].requests) == 30
