"""What mirrored reads have shown, over the API: figures, evidence in pages, noise that is accepted."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.core.compare.evidence import Finding, Found
from gateway.core.compare.noise import NoiseCounts
from gateway.core.compare.rules import Relax
from gateway.core.compare.tree import Difference, Kind
from gateway.state.counters import CounterStore
from gateway.state.evidence import EvidenceStore
from gateway.state.noise import NoiseStore
from gateway.telemetry.counters import RequestCounters
from tests.support.control import Desk, Json
from tests.support.waiting import until_async

AT = Difference("$.at", Kind.VALUE, "string:time", "string:time", "aa", "bb")
BAD = Difference("$.bad", Kind.TYPE, "string", "integer")


async def report(
    desk: Desk,
    counters: RequestCounters,
    noise: NoiseCounts | None = None,
    worker: str = "g-0",
    at: float | None = None,
) -> None:
    said_at = time.time() if at is None else at
    blob: dict[str, Any] = {"worker": worker, "incarnation": "one", "at": said_at, "epoch": 1, "age_s": 0}
    found = {"noise": {"work.read": noise.blob()}} if noise is not None else {}
    store = CounterStore(desk.side_client, "git")
    store.publish(worker, {**blob, "definition": "d", **counters.blob(), **found})
    await store.aclose()


async def items(desk: Desk, path: str) -> list[Json]:
    answer = await desk.ask("GET", path)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["items"]
    return found


async def test_figures_are_of_all_workers_by_operation_and_group(desk: Desk) -> None:
    for worker in ("g-0", "g-1"):
        counters = RequestCounters()
        for result in ("match", "match", "mismatch", "suspected", "suspected", "settled", "incomparable:both_failed"):
            counters.compared("work.read", result)
        for result in ("sent", "queue_full", "stage"):
            counters.mirrored("work.read", result)
        await report(desk, counters, worker=worker)

    async def counted() -> bool:
        status = await desk.status()
        return bool(status["operations"]["work.read"]["comparisons"]["match"] == 4)

    await until_async(counted, "both are counted")
    operation = (await desk.status())["operations"]["work.read"]
    assert operation["comparisons"] == {"match": 4, "suspected": 2, "mismatch": 2, "incomparable": 2, "skipped": 2}
    assert operation["consistency"] == pytest.approx(4 / 6)
    found = {item["target"]: item for item in await items(desk, "/v1/consistency")}
    assert found["group workspace"]["mismatches"] == found["operation work.read"]["mismatches"] == 2
    assert found["operation work.read"]["incomparable"] == {"both_failed": 2}
    assert 0 < found["operation work.read"]["read_agreement_at_least"] < 4 / 6
    assert found["operation alone"]["read_agreement"] is None
    assert "operation work.write" not in found
    metrics = (await desk.ask("GET", "/metrics", by=None)).text
    assert 'crossfade_comparisons_total{operation="work.read",result="mismatch"} 2.0' in metrics
    assert 'crossfade_mirror_total{operation="work.read",result="queue_full"} 2.0' in metrics


async def test_the_figure_begins_anew_when_the_rules_of_an_operation_change(desk: Desk) -> None:
    counters = RequestCounters()
    counters.agreement.use({"work.read": "first", "store.read": "first"})
    for name in ("work.read", "store.read"):
        counters.compared(name, "mismatch")
    await report(desk, counters)

    async def figure(name: str) -> Json:
        return next(item for item in await items(desk, "/v1/consistency") if item["target"] == name)

    async def is_counted() -> bool:
        return bool((await figure("operation work.read"))["mismatches"])

    await until_async(is_counted, "it is counted")
    before = await figure("operation work.read")
    assert (before["rules"], before["read_agreement"], before["window_s"]) == ("first", 0.0, 86_400)
    counters.agreement.use({"work.read": "second", "store.read": "first"})
    counters.compared("work.read", "match")
    await report(desk, counters)

    async def has_begun_anew() -> bool:
        return bool((await figure("operation work.read"))["rules"] == "second")

    await until_async(has_begun_anew, "other rules")
    after = await figure("operation work.read")
    assert (after["matches"], after["mismatches"], after["read_agreement"]) == (1, 0, 1.0)
    assert after["since"] > before["since"]
    assert (await figure("operation store.read"))["mismatches"] == 1
    assert (await figure("group workspace"))["mismatches"] == 0
    status = (await desk.status())["operations"]["work.read"]
    # Counters only grow; the figure does not remember.
    assert (status["comparisons"]["mismatch"], status["consistency"]) == (1, 1.0)


async def test_differences_that_a_killed_worker_had_suspected_do_not_stay(desk: Desk) -> None:
    counters = RequestCounters()
    counters.compared("work.read", "suspected")
    await report(desk, counters, at=time.time() - 60)
    await report(desk, counters, worker="g-1")

    async def suspected() -> int:
        return int((await desk.status())["operations"]["work.read"]["comparisons"]["suspected"] or 0)

    async def is_one() -> bool:
        return await suspected() == 1

    await until_async(is_one, "only that of the worker that lives is left")
    counters.compared("work.read", "settled")
    await report(desk, counters, worker="g-1")

    async def is_none() -> bool:
        return await suspected() == 0

    await until_async(is_none, "it is settled")


def finding(n: int, finding: Finding = Finding.SUSPECTED, operation: str = "work.read", at: float = 0) -> Found:
    difference = Difference(f"$.part{n}", Kind.VALUE, "integer", "integer", "aa", "bb")
    return Found(operation, finding, (difference,), f"request-{n}", "old", "v1", at or 1000.0 + n)


async def test_evidence_is_grouped_and_read_in_pages_last_seen_first(desk: Desk) -> None:
    store = EvidenceStore(desk.side_client, "git")
    for n in range(25):
        store.note(finding(n))
        store.note(finding(n, operation="alone"))
    store.note(finding(3, Finding.MISMATCH, at=5000.0))
    await store.flush()
    store.note(finding(3, Finding.REFUTED, at=6000.0))
    await store.flush()
    found: list[Json] = []
    cursor: str | None = None
    while True:
        query = "/v1/comparisons?limit=7&operation=work.read" + (f"&cursor={cursor}" if cursor else "")
        page = (await desk.ask("GET", query)).json()
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(found) == len({group["signature"] for group in found}) == 25
    first = found[0]
    assert (first["suspected"], first["mismatch"], first["refuted"]) == (1, 1, 1)
    assert (first["first_seen"], first["last_seen"]) == (1003.0, 6000.0)
    assert [group["differences"][0]["path"] for group in found[1:3]] == ["$.part24", "$.part23"]


async def pages_while_groups_are_seen_again(desk: Desk, order: str) -> list[str]:
    """The names on all pages; after each page the group that was seen longest ago is seen again."""
    store = EvidenceStore(desk.side_client, "git")
    for n in range(30):
        store.note(finding(n))
    await store.flush()
    names: list[str] = []
    query = f"/v1/comparisons?limit=7&order={order}"
    page = (await desk.ask("GET", query)).json()
    for n in range(30):
        names += [group["signature"] for group in page["items"]]
        if page["next"] is None:
            return names
        store.note(finding(n, at=9000.0 + n))
        await store.flush()
        page = (await desk.ask("GET", f"{query}&cursor={page['next']}")).json()
    raise AssertionError("the pages have no end")


async def test_a_walk_by_name_misses_no_group_though_groups_are_seen_again(desk: Desk) -> None:
    names = await pages_while_groups_are_seen_again(desk, "signature")
    assert len(names) == len(set(names)) == 30


async def test_a_walk_by_last_seen_shows_no_group_twice(desk: Desk) -> None:
    names = await pages_while_groups_are_seen_again(desk, "last_seen")
    # Those that went to the front meanwhile are on the first page, for whoever looks again.
    assert len(names) == len(set(names)) == 27


async def test_groups_seen_at_the_same_moment_are_all_shown(desk: Desk) -> None:
    store = EvidenceStore(desk.side_client, "git")
    for n in range(30):
        store.note(finding(n, at=1000.5))
    await store.flush()
    names: list[str] = []
    query = "/v1/comparisons?limit=4"
    while True:
        page = (await desk.ask("GET", query)).json()
        names += [group["signature"] for group in page["items"]]
        if page["next"] is None:
            break
        query = f"/v1/comparisons?limit=4&cursor={page['next']}"
    assert len(names) == len(set(names)) == 30


@pytest.mark.parametrize(
    "query", ["order=first", "order=signature&cursor=1000.0-0123456789abcdef", "cursor=0123456789abcdef"]
)
async def test_an_order_or_a_cursor_of_another_one_is_refused(desk: Desk, query: str) -> None:
    answer = await desk.ask("GET", f"/v1/comparisons?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=x", "cursor=-1", "cursor=1-1"])
@pytest.mark.parametrize("path", ["comparisons", "consistency", "noise"])
async def test_a_page_that_cannot_be_meant_is_refused(desk: Desk, path: str, query: str) -> None:
    answer = await desk.ask("GET", f"/v1/{path}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


async def learnt(desk: Desk) -> None:
    noise = NoiseCounts()
    for n in range(100):
        noise.note_pair([AT] if n % 2 else [], [f"$.leaf{leaf}" for leaf in range(30)])
        noise.note_raw([AT] if n % 2 else [])
        if n % 10 == 0:
            noise.note_pair([BAD], [])
    await report(desk, RequestCounters(), noise)

    async def known() -> bool:
        return any(item["pairs"] == 110 for item in await items(desk, "/v1/noise"))

    await until_async(known, "the noise is known")


async def test_noise_is_proposed_accepted_and_taken_back(desk: Desk) -> None:
    await learnt(desk)
    [item] = [item for item in await items(desk, "/v1/noise") if item["operation"] == "work.read"]
    assert [(p["path"], p["relax"]) for p in item["proposals"]] == [("$.at", "shape"), ("$.bad", None)]
    assert item["accepted"] == {}
    answer = await desk.ask("PATCH", "/v1/noise/work.read", {"accept": ["$.at"], "reason": "a clock"}, by="operator")
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == {"$.at": ["shape"]}
    assert [p["path"] for p in answer.json()["proposals"]] == ["$.bad"]
    stored = await NoiseStore(desk.side_client, "git").read()
    assert stored.version == 1
    assert [entry["action"] for entry in await items(desk, "/v1/audit?limit=1")] == ["noise"]
    back = await desk.ask("PATCH", "/v1/noise/work.read", {"drop": ["$.at"], "reason": "not any more"})
    assert back.json()["accepted"] == {}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("work.read", {"accept": ["$.bad"], "reason": "r"}, 422, "rule_violation"),
        ("work.read", {"accept": ["$.unknown"], "reason": "r"}, 422, "rule_violation"),
        ("work.read", {"drop": ["$.at"], "reason": "r"}, 422, "rule_violation"),
        ("work.write", {"accept": ["$.at"], "reason": "r"}, 422, "rule_violation"),
        ("nothing", {"accept": ["$.at"], "reason": "r"}, 404, "unknown_operation"),
        ("work.read", {"accept": ["$.at"]}, 400, "invalid_value"),
        ("work.read", {"reason": "r"}, 400, "invalid_value"),
        ("work.read", {"accept": [1], "reason": "r"}, 400, "invalid_value"),
    ],
)
async def test_what_cannot_be_accepted(desk: Desk, path: str, body: Json, status: int, code: str) -> None:
    await learnt(desk)
    answer = await desk.ask("PATCH", f"/v1/noise/{path}", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_damaged_noise_relaxes_nothing(desk: Desk) -> None:
    store = NoiseStore(desk.side_client, "git")
    for content in ("{", "[]", '{"version": 1}', '{"version": 1, "relaxed": {"a": {"$.a": "everything"}}}'):
        await desk.side_client.set("cf:git:noise", content)
        before = await store.read()
        assert before.relaxed == {}
    assert await store.replace(before, {"a": {"$.a": Relax.SHAPE}}) is not None


async def test_while_somebody_reads_it_noise_stays_as_it_is(desk: Desk) -> None:
    await learnt(desk)
    store = NoiseStore(desk.side_client, "git")
    accept = {"accept": ["$.at"], "reason": "r"}
    await store.freeze("gate workspace", time.time() + 60)
    answer = await desk.ask("PATCH", "/v1/noise/work.read", accept)
    assert (answer.status_code, answer.json()["code"], answer.json()["rule"]) == (422, "rule_violation", "noise_frozen")
    assert "gate workspace" in answer.json()["detail"]
    await store.thaw("gate workspace")
    assert (await desk.ask("PATCH", "/v1/noise/work.read", accept)).status_code == 200
    # Whoever froze it died.
    await store.freeze("gate workspace", time.time() - 1)
    assert (await desk.ask("PATCH", "/v1/noise/work.read", {"drop": ["$.at"], "reason": "r"})).status_code == 200


async def test_a_part_is_accepted_in_all_its_ways_and_again(desk: Desk) -> None:
    noise = NoiseCounts()
    missing, null = (
        Difference("$.at", Kind.MISSING, "string:time"),
        Difference("$.at", Kind.TYPE, "null", "string:time"),
    )
    for n in range(90):
        noise.note_pair([(AT, missing, null)[n % 3]], [f"$.leaf{leaf}" for leaf in range(30)])
    await report(desk, RequestCounters(), noise)

    async def known() -> bool:
        return any(item["pairs"] == 90 for item in await items(desk, "/v1/noise"))

    await until_async(known, "the noise is known")
    accept = {"accept": ["$.at"], "reason": "r"}
    for _ in range(2):
        answer = await desk.ask("PATCH", "/v1/noise/work.read", accept)
        assert answer.json()["accepted"] == {"$.at": ["shape", "presence", "null"]}, answer.text
        assert answer.json()["proposals"] == []
