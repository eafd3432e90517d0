"""What is mirrored, how, and what it costs the client: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from gateway.core.model import Side
from gateway.state.connect import connect
from gateway.state.counters import CounterStore
from gateway.state.evidence import EvidenceStore
from tests.integration.shadow.conftest import QUICK, JsonSide, mirrored
from tests.integration.shadow.scene import JSON, ask, children, compared, is_running, mirror, shadow, started
from tests.support.raw_upstream import Peer, answer, chunked_answer
from tests.support.redis_process import RedisProcess
from tests.support.sides import StubSide, client, get, post
from tests.support.waiting import until, until_async
from tests.support.worker import Bench, WorkerProcess

READ = ("x-key: k", "authorization: Bearer of-a-client", "cookie: a=b", "x-request-id: request-1")


async def test_a_read_goes_to_the_other_side_too_and_matches(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    await ask(worker, get("/items/7?a=%20b", *READ))
    await until(lambda: compared(worker) == {"match": 1}, "they match")
    [served], [copy] = old.stub.requests, new.stub.requests
    assert served.field(b"crossfade-copy") == []
    assert copy.line == served.line == b"GET /items/7?a=%20b HTTP/1.1"
    assert copy.field(b"crossfade-copy") == [b"mirror"]
    for name in (b"x-request-id", b"traceparent", b"x-forwarded-for", b"host"):
        assert copy.field(name) == served.field(name), name
    assert mirror(worker) == {"sent": 1}


async def test_credentials_stay_with_the_side_that_is_trusted_with_them(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    await ask(worker, get("/items/7", *READ, "x-auth-token: s", "x-amz-security-token: s"))
    await until(lambda: new.copies, "the copy came")
    assert old.stub.requests[0].field(b"authorization") == [b"Bearer of-a-client"]
    assert old.stub.requests[0].field(b"crossfade-auth") == [b"internal"]
    for name in (b"authorization", b"cookie", b"x-auth-token", b"x-amz-security-token", b"crossfade-auth"):
        assert new.copies[0].field(name) == [], name


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/items/7?a=1&access_token=s", "x-key: k"),
        get("/items/7?token=s", "x-key: k"),
        post("/mcp", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "item_get", "arguments": {"key": "k", "token": "s"}}}).encode(), "content-type: application/json"),
    ],
    ids=["query", "declared", "argument"],
)  # fmt: skip
async def test_what_holds_a_secret_elsewhere_is_not_mirrored_to_such_a_side(
    worker: WorkerProcess, new: JsonSide, request_bytes: bytes
) -> None:
    assert await ask(worker, request_bytes) == [200]
    await until(lambda: mirror(worker) == {"secret": 1}, "it is counted")
    assert new.copies == []


async def test_the_file_says_what_is_a_secret(place: Bench, stubs: dict[Side, StubSide], new: JsonSide) -> None:
    content = mirrored(stubs, secrets=["argument:pin", "header:x-mine"])
    worker = await started(place, content, "secrets")
    await ask(worker, get("/items/7?token=s", "x-key: k", "x-mine: s"), get("/items/7?pin=1", "x-key: k"))
    await until(lambda: mirror(worker) == {"sent": 1, "secret": 1}, "both are counted")
    [copy] = new.copies
    assert copy.line == b"GET /items/7?token=s HTTP/1.1"
    assert copy.field(b"x-mine") == []


async def test_a_trusted_side_sees_them_or_what_is_configured_instead(
    place: Bench, stubs: dict[Side, StubSide], new: JsonSide
) -> None:
    file = place.data_dir / "headers"
    file.write_text("# of the new side\nAuthorization: Bearer of-the-operator\n")
    content = mirrored(stubs)
    content["sides"]["new"] |= {"trusted": True, "mirror_headers_file": str(file)}
    place.migration.write_text(json.dumps(content))
    worker = await place.start()
    await ask(worker, get("/items/7", *READ))
    await until(lambda: new.copies, "the copy came")
    assert new.copies[0].field(b"authorization") == [b"Bearer of-the-operator"]
    assert new.copies[0].field(b"cookie") == [b"a=b"]
    assert new.copies[0].field(b"crossfade-auth") == [b"internal"]


async def test_writes_are_never_mirrored(worker: WorkerProcess, new: JsonSide) -> None:
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "item_put", "arguments": {"key": "k"}},
    }
    requests = [
        post("/items/1", b"{}", "x-key: k", method="PUT"),
        post("/find", b"{}", "x-key: k"),
        post("/mcp", json.dumps(call).encode(), "content-type: application/json"),
        # The headers name a read, the body a write.
        post("/mcp", json.dumps(call).encode(), "content-type: application/json", "mcp-method: tools/call",
             "mcp-name: item_get", "mcp-protocol-version: 2026-07-28"),
    ]  # fmt: skip
    await ask(worker, *requests, get("/items/1", "x-key: k"))
    await until(lambda: mirror(worker).get("sent") == 1, "the read is mirrored")
    assert [request.line for request in new.copies] == [b"GET /items/1 HTTP/1.1"]
    assert mirror(worker) == {"sent": 1, "unconfirmed": 1}


async def test_reads_over_mcp_are_compared_without_their_envelope(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    def rpc(number: int, value: object) -> object:
        return {"jsonrpc": "2.0", "id": number, "result": {"content": [], "structuredContent": {"v": value}}}

    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "item_get", "arguments": {"key": "k"}},
    }
    old.content, new.content = rpc(1, "x"), rpc(2, "x")
    await ask(worker, post("/mcp", json.dumps(call).encode(), "content-type: application/json"))
    await until(lambda: compared(worker) == {"match": 1}, "they match")
    assert new.copies[0].body == json.dumps(call).encode()


@pytest.mark.parametrize(
    ("request_bytes", "why"),
    [
        (get("/items/1", "x-key: k", "if-none-match: x"), "conditional"),
        (get("/items/1", "x-key: k", "range: bytes=0-1"), "conditional"),
        (get("/items/1", "x-key: k", "connection: upgrade", "upgrade: websocket"), "upgrade"),
    ],
)
async def test_what_is_not_mirrored_is_counted_with_its_reason(
    worker: WorkerProcess, new: JsonSide, request_bytes: bytes, why: str
) -> None:
    await ask(worker, request_bytes)
    await until(lambda: mirror(worker) == {why: 1}, "it is counted")
    assert new.copies == []


async def test_an_answer_that_is_too_large_is_served_and_not_compared(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    old.content = "x" * (2 << 20)
    assert await ask(worker, get("/items/1", "x-key: k")) == [200]
    await until(lambda: mirror(worker) == {"too_large": 1}, "it is counted")
    assert new.copies == []
    old.content, new.content = {}, "x" * (2 << 20)
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: mirror(worker) == {"too_large": 2, "sent": 1}, "it is counted")


async def test_a_sample_is_one_of_requests(place: Bench, stubs: dict[Side, StubSide], new: JsonSide) -> None:
    content = mirrored(stubs)
    content["operations"]["item.get"]["mirror_percent"] = 30
    content["migration"] = "sampled"
    place.migration.write_text(json.dumps(content))
    await place.boot()
    worker = await place.start()
    await ask(worker, *(get("/items/1", "x-key: one-key", f"x-request-id: r{n}") for n in range(200)))
    await until(lambda: sum(mirror(worker).values()) == 200, "all are counted")
    assert 35 < mirror(worker)["sent"] < 85
    ids = {request.field(b"x-request-id")[0] for request in new.copies}
    await ask(worker, *(get("/items/1", "x-key: another", f"x-request-id: r{n}") for n in range(200)))
    await until(lambda: sum(mirror(worker).values()) == 400, "all are counted")
    await until(lambda: len(new.copies) == mirror(worker)["sent"], "all have come")
    assert {request.field(b"x-request-id")[0] for request in new.copies} == ids


async def test_a_side_that_hangs_costs_the_client_nothing(worker: WorkerProcess, new: JsonSide, old: JsonSide) -> None:
    async def hang(peer: Peer) -> None:
        await peer.receive_request()
        await asyncio.Event().wait()

    new.stub.script = hang
    old.content = "x" * 60_000
    statuses = await ask(worker, *(get("/items/1", "x-key: k") for _ in range(1500)))
    assert statuses == [200] * 1500
    await until(lambda: sum(mirror(worker).values()) + shadow(worker)["queued"] == 1500, "all are counted")
    assert shadow(worker)["running"] <= 64
    assert shadow(worker)["held_bytes"] <= 32 << 20
    assert mirror(worker)["queue_full"] > 0


async def test_a_side_that_fails_is_no_mismatch(worker: WorkerProcess, new: JsonSide) -> None:
    new.respond = lambda _: b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n"
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker) == {"incomparable:candidate_error": 1}, "it is set apart")
    new.respond = lambda _: b"garbage"
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker) == {"incomparable:candidate_error": 2}, "it is set apart")


async def test_a_kill_stops_copies_that_wait(place: Bench, worker: WorkerProcess, new: JsonSide) -> None:
    async def hang(peer: Peer) -> None:
        new.stub.requests.append(await peer.receive_request())
        await asyncio.Event().wait()

    new.stub.script = hang
    await ask(worker, *(get("/items/1", "x-key: k") for _ in range(100)))
    await until(lambda: len(new.copies) == 8 and shadow(worker)["queued"] == 92, "a few are on their way")
    (place.data_dir / "KILL").write_text("all\n")
    await until(lambda: mirror(worker) == {"sent": 8, "kill": 92}, "what waited is gone at once")
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: mirror(worker).get("kill") == 93, "nothing is mirrored any more")
    assert len(new.copies) == 8
    assert shadow(worker)["queued"] == 0


async def test_a_difference_is_suspected_at_once_and_counts_when_it_stays(
    worker: WorkerProcess, old: JsonSide, new: JsonSide, redis: RedisProcess
) -> None:
    old.content, new.content = {"a": 1, "b": {"c": "x"}}, {"a": 1, "b": {"c": "y"}}
    await ask(worker, get("/items/1", "x-key: k", "x-request-id: the-request"))
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "mismatch": 1}, "it is a mismatch")
    # Once for the client, and before and after each further copy.
    assert (len(old.stub.requests), len(new.stub.requests)) == (5, 3)
    async with connect(redis.url) as store:
        evidence = EvidenceStore(store, "shop")

        async def kept() -> bool:
            groups, _ = await evidence.page(10, None)
            return bool(groups) and groups[0]["mismatch"] == 1

        await until_async(kept, "it is kept")
        [group], following = await evidence.page(10, None)
    assert following is None
    assert (group["operation"], group["suspected"], group["serving"]) == ("item.get", 1, "old")
    assert [(d["path"], d["kind"], d["left"]) for d in group["differences"]] == [("$.b.c", "value", "string")]
    assert group["request_ids"] == ["the-request"]


async def test_a_difference_that_goes_away_counts_as_a_match(
    worker: WorkerProcess, old: JsonSide, new: JsonSide
) -> None:
    new.content = {"a": 2}
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker) == {"suspected": 1}, "it is suspected")
    new.content = {"a": 1}
    await until(lambda: compared(worker) == {"suspected": 1, "settled": 1, "match": 1}, "it is none")


async def test_the_process_that_compares_may_be_killed(worker: WorkerProcess, old: JsonSide, new: JsonSide) -> None:
    old.respond = lambda _: answer(b'{"at": 1, "v": 1}', JSON)
    new.respond = lambda _: answer(b'{"v": 1, "at": 1}', JSON)
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker) == {"match": 1}, "it compares")
    [pid] = children(worker.process.pid)
    os.kill(pid, signal.SIGKILL)
    statuses = await ask(worker, *(get("/items/1", "x-key: k") for _ in range(50)))
    assert statuses == [200] * 50
    await until(
        lambda: compared(worker).get("match", 0) + mirror(worker).get("comparison_lost", 0) == 51, "all are counted"
    )
    await ask(worker, get("/items/1", "x-key: k"))
    await until(
        lambda: compared(worker).get("match", 0) + mirror(worker).get("comparison_lost", 0) == 52, "it compares again"
    )
    assert children(worker.process.pid) != [pid]


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_nothing_of_it_outlives_the_worker(
    worker: WorkerProcess, old: JsonSide, new: JsonSide, *, is_stopped: bool
) -> None:
    new.content = {"a": 2}
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker), "it compares")
    [pid] = children(worker.process.pid)
    if is_stopped:
        os.kill(pid, signal.SIGSTOP)
    worker.process.kill()
    worker.process.wait()
    await until(lambda: not is_running(pid), "the process that compares ends")


async def noise_of(redis: RedisProcess, pairs: int) -> dict[str, Any]:
    """What the worker has published of the operation's noise, once it knows so many pairs."""
    found: dict[str, Any] = {}
    async with connect(redis.url) as client_of_redis:
        store = CounterStore(client_of_redis, "shop")

        async def has_learnt() -> bool:
            found.update((await store.read_all()).get("gateway-0", {}).get("noise", {}).get("item.get", {}))
            return found.get("pairs") == pairs

        await until_async(has_learnt, "it is learnt")
    return found


async def test_an_operation_that_is_mostly_noise_is_not_compared(
    place: Bench, old: JsonSide, new: JsonSide, redis: RedisProcess
) -> None:
    place.settings = {"shadow": {**QUICK, "noise_percent": 100}}
    place.prepare({"internal_token": "internal"})
    worker = await place.start()
    numbers = iter(range(10**6))
    old.respond = new.respond = lambda _: answer(json.dumps({"a": next(numbers), "b": next(numbers)}).encode(), JSON)
    await ask(worker, *(get("/items/1", "x-key: k") for _ in range(8)))
    await noise_of(redis, pairs=8)

    async def is_set_apart() -> bool:
        before = compared(worker)
        await ask(worker, get("/items/1", "x-key: k"))
        await until(lambda: compared(worker) != before, "it is judged")
        return "incomparable:too_noisy" in compared(worker)

    await until_async(is_set_apart, "it is not compared any more")


async def test_noise_is_learnt_and_passes_once_it_is_accepted(
    place: Bench, old: JsonSide, new: JsonSide, redis: RedisProcess
) -> None:
    from gateway.core.compare.noise import learn
    from gateway.core.compare.rules import Relax
    from gateway.state.noise import AcceptedNoise, NoiseStore

    place.settings = {"shadow": {**QUICK, "noise_percent": 100}}
    place.prepare({"internal_token": "internal"})
    worker = await place.start()
    numbers = iter(range(10**6))

    def volatile(_: object) -> bytes:
        number = next(numbers)
        return answer(json.dumps({"at": f"2026-01-01T00:00:{number % 60:02}Z", "v": 1, "w": [1] * 9}).encode(), JSON)

    old.respond = new.respond = volatile
    await ask(worker, *(get("/items/1", "x-key: k") for _ in range(20)))
    [proposal] = learn(await noise_of(redis, pairs=20), {}).proposals
    assert (proposal.path, proposal.relax, proposal.is_held) == ("$.at", Relax.SHAPE, False)
    async with connect(redis.url) as store:
        noise = NoiseStore(store, "shop")
        assert await noise.replace(AcceptedNoise(), {"item.get": {"$.at": Relax.SHAPE}}) is not None
        assert await noise.replace(AcceptedNoise(), {}) is None
        assert (await noise.read()).relaxed == {"item.get": {"$.at": Relax.SHAPE}}
    await until(lambda: "suspected" in compared(worker), "before, they differ")
    await until(lambda: compared(worker)["suspected"] == compared(worker).get("settled"), "all are settled")

    async def matches() -> bool:
        # What was accepted is read every half second.
        before = compared(worker)
        await ask(worker, get("/items/1", "x-key: k"))
        await until(lambda: compared(worker) != before, "it is judged")
        return compared(worker).get("match", 0) > before.get("match", 0)

    await until_async(matches, "what differs passes")
    suspected = compared(worker)["suspected"]
    await ask(worker, *(get("/items/1", "x-key: k") for _ in range(20)))
    await until(lambda: compared(worker).get("match", 0) >= 20, "all match")
    assert compared(worker)["suspected"] == suspected


async def test_both_lanes_mirror_answers_that_stream(
    place: Bench, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide
) -> None:
    """A chunked answer, a large one and a request with a body, by the general lane alone."""
    content = mirrored(stubs)
    content["operations"]["item.find"] |= {"class": "read", "mirror_percent": 100}
    content["migration"] = "general"
    place.migration.write_text(json.dumps(content))
    await place.boot()
    place.settings = {"shadow": QUICK, "express": "off"}
    place.prepare({"internal_token": "internal"})
    worker = await place.start()
    old.respond = lambda _: chunked_answer(b'{"a": ', b"1}")
    new.respond = lambda _: answer(b'{"a": 1}')
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker) == {"match": 1}, "they match")
    old.respond, old.content = None, "x" * 500_000
    new.respond, new.content = None, "x" * 500_000
    await ask(worker, get("/items/1", "x-key: k"))
    await until(lambda: compared(worker) == {"match": 2}, "they match")
    await ask(worker, post("/find", b'{"q": 1}', "x-key: k"))
    await until(lambda: compared(worker, "item.find") == {"match": 1}, "they match")
    assert new.copies[-1].body == b'{"q": 1}'


async def test_a_client_that_leaves_is_counted(worker: WorkerProcess, old: JsonSide, new: JsonSide) -> None:
    asked = asyncio.Event()

    async def hang(peer: Peer) -> None:
        await peer.receive_request()
        asked.set()
        await asyncio.Event().wait()

    old.stub.script = hang
    async with client(worker.port) as c:
        await c.send(get("/items/1", "x-key: k"))
        await asked.wait()
    await until(lambda: mirror(worker) == {"client_gone": 1}, "it is counted")
    assert new.copies == []
