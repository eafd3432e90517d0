"""Evidence is neither lost nor counted twice, whatever becomes of Redis; and what is not kept leaves nothing behind."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.core.compare.evidence import Finding, Found
from gateway.core.compare.tree import Difference, Kind
from gateway.state.connect import connect
from gateway.state.evidence import BUFFERED, GROUPS, EvidenceStore
from tests.integration.state.scene import Scene
from tests.support.waiting import until


def found(n: int, finding: Finding = Finding.SUSPECTED, at: float = 0, request_id: str = "") -> Found:
    difference = Difference(f"$.part{n}", Kind.VALUE, "integer", "integer", "aa", "bb")
    return Found("git.status", finding, (difference,), request_id or f"request-{n}", "old", "v1", at or 1000.0 + n)


async def kept(store: EvidenceStore) -> dict[str, int]:
    """How often each part was suspected, as far as it is kept."""
    groups, following = await store.page(2 * GROUPS, None)
    assert following is None
    return {group["differences"][0]["path"]: group["suspected"] for group in groups}


@asynccontextmanager
async def mute_redis() -> AsyncIterator[tuple[str, list[int]]]:
    """A server that takes everything and says nothing; its URL, and a number for each connection."""
    connections: list[int] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        while await reader.read(65_536):
            pass
        writer.close()

    with tempfile.TemporaryDirectory(prefix="cf-mute-") as directory:
        path = Path(directory) / "r.sock"
        server = await asyncio.start_unix_server(take, path)
        try:
            yield f"unix://{path}", connections
        finally:
            server.close()


async def test_groups_that_are_not_kept_leave_nothing_behind(scene: Scene) -> None:
    client = scene.client()
    store = EvidenceStore(client, "git")
    for start in range(0, GROUPS + 400, 200):
        for n in range(start, start + 200):
            store.note(found(n))
        await store.flush()
    assert await client.zcard("cf:git:evidence") == GROUPS
    stored = [name async for name in client.scan_iter("cf:git:evidence:*", count=10_000)]
    hashes = [name for name in stored if await client.type(name) == b"hash"]
    assert len(hashes) == GROUPS
    assert set(await kept(store)) == {f"$.part{n}" for n in range(400, GROUPS + 400)}


async def test_a_redis_that_says_nothing_is_asked_once_for_all_groups() -> None:
    async with mute_redis() as (url, connections):
        client = connect(url)
        store = EvidenceStore(client, "git")
        for n in range(BUFFERED):
            store.note(found(n))
        await store.flush()
        assert len(connections) == 1
        assert store.held == BUFFERED
        await client.aclose()


async def test_what_was_noted_around_an_outage_counts_exactly_once(scene: Scene) -> None:
    store = EvidenceStore(scene.client(), "git")
    for _ in range(3):
        store.note(found(1))
    # Redis has the call and carries it out when it wakes up; nobody was told.
    scene.redis.freeze()
    await store.flush()
    store.note(found(1))
    store.note(found(2))
    scene.redis.resume()
    await store.flush()
    await store.flush()
    assert await kept(store) == {"$.part1": 4, "$.part2": 1}
    assert store.held == 0


async def test_a_redis_that_is_gone_for_a_while_costs_nothing(scene: Scene) -> None:
    store = EvidenceStore(scene.client(), "git")
    scene.redis.kill()
    for n in range(300):
        store.note(found(n))
    await store.flush()
    for n in range(300):
        store.note(found(n))
    await store.flush()
    scene.redis.start()
    await store.flush()
    assert await kept(store) == dict.fromkeys([f"$.part{n}" for n in range(300)], 2)


async def test_a_flush_that_is_cancelled_loses_nothing(scene: Scene) -> None:
    store = EvidenceStore(scene.client(), "git")
    for n in range(BUFFERED):
        store.note(found(n))
    scene.redis.freeze()
    flushing = asyncio.create_task(store.flush())
    await until(lambda: store.is_writing, "it is on its way")
    flushing.cancel()
    # On a busy machine its call may have ended by itself by now: nothing is lost either way.
    await asyncio.wait([flushing])
    scene.redis.resume()
    await store.flush()
    assert await kept(store) == dict.fromkeys([f"$.part{n}" for n in range(BUFFERED)], 1)


async def test_groups_over_the_bound_are_counted_as_dropped(scene: Scene) -> None:
    store = EvidenceStore(scene.client(), "git")
    for n in range(BUFFERED + 7):
        store.note(found(n))
    # A group that has its place takes more.
    store.note(found(0))
    assert (store.dropped, store.held) == (7, BUFFERED)
    await store.flush()
    assert (await kept(store))["$.part0"] == 2


async def test_the_last_flush_ends_whether_redis_answers_or_not(scene: Scene) -> None:
    store = EvidenceStore(scene.client(), "git")
    for n in range(BUFFERED):
        store.note(found(n))
    scene.redis.freeze()
    await store.aclose(limit_s=0.01)
    assert store.held == BUFFERED
    scene.redis.resume()
    await store.aclose()
    assert store.held == 0
    assert len(await kept(store)) == BUFFERED


async def test_a_group_of_two_processes_has_the_first_and_the_last_of_both(scene: Scene) -> None:
    one, other = EvidenceStore(scene.client(), "git"), EvidenceStore(scene.client(), "git")
    one.note(found(1, at=2000.0, request_id="late"))
    other.note(found(1, at=1000.0, request_id="early"))
    other.note(found(1, Finding.MISMATCH, at=1500.0, request_id="early"))
    await one.flush()
    await other.flush()
    [group], _ = await one.page(10, None)
    assert (group["first_seen"], group["last_seen"]) == (1000.0, 2000.0)
    assert (group["suspected"], group["mismatch"]) == (2, 1)
    assert sorted(group["request_ids"]) == ["early", "late"]


async def test_example_requests_are_the_last_ones_and_few(scene: Scene) -> None:
    store = EvidenceStore(scene.client(), "git")
    for n in range(4):
        store.note(found(1, at=1000.0 + n, request_id=f"r{n}"))
    await store.flush()
    for n in range(4, 8):
        store.note(found(1, at=1000.0 + n, request_id=f"r{n}"))
    await store.flush()
    [group], _ = await store.page(10, None)
    assert group["request_ids"] == ["r3", "r4", "r5", "r6", "r7"]
