from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.core.decide import Doubt
from gateway.core.model import Side
from gateway.core.outcome import Outcome
from gateway.core.side_choice import bucket_ppm, key_hash
from gateway.state.counters import CounterStore
from gateway.telemetry.counters import RequestCounters
from tests.support.control import Desk
from tests.support.waiting import until_async

STATUS = {"migration", "epoch", "lineage", "state", "policy_age_s", "kills", "groups", "operations", "workers"}
GROUP = {"writes", "stage", "percent", "dual_percent", "pending", "unprotected"}
OPERATION = {
    *("class", "group", "stage", "percent", "effective_percent", "actual_percent", "mirror_percent", "killed"),
    *("detector", "why", "evidence_percent", "dispersion", "limit_ms", "baseline"),
    *("comparisons", "consistency", "window_s", "sides"),
}


async def test_the_status_has_every_field_of_the_contract(desk: Desk) -> None:
    status = await desk.status()
    assert set(status) >= STATUS
    assert all(set(group) == GROUP for group in status["groups"].values())
    assert all(set(operation) == OPERATION for operation in status["operations"].values())
    assert list(status["groups"]) == ["workspace", "store", "ledger"]
    assert (status["migration"], status["epoch"], status["state"]) == ("git", 1, "ok")
    assert status["operations"]["alone"]["group"] == "alone"


async def test_a_field_that_counts_is_sent_once(desk: Desk) -> None:
    token = ("Authorization", f"Bearer {desk.tokens['approver']}")
    json_body = ("Content-Type", "application/json")
    change = b'{"mirror_percent": 1}'
    for fields in ([token, token], [token, ("If-Match", '"1"'), ("If-Match", '"999"')]):
        answer = await desk.client.patch("/v1/groups/store", content=change, headers=[*fields, json_body])
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert (await desk.status())["epoch"] == 1


@pytest.mark.parametrize("cursor", ["x", "1", "-1-1", "0-0", f"{1 << 64}-0", f"0-{1 << 64}"])
async def test_a_cursor_that_no_page_can_have_given_is_a_wrong_value(desk: Desk, cursor: str) -> None:
    answer = await desk.ask("GET", f"/v1/audit?cursor={cursor}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


async def test_what_is_unknown_is_null_and_never_0(desk: Desk) -> None:
    operation = (await desk.status())["operations"]["work.read"]
    assert operation["actual_percent"] is None
    assert operation["evidence_percent"] is None
    assert operation["consistency"] is None
    assert set(operation["comparisons"].values()) == {None}
    assert operation["sides"]["new"]["p95_ms"] is None
    assert (operation["detector"], bool(operation["why"])) == ("no_data", True)


async def test_a_group_of_operations_that_differ_has_no_one_percent(desk: Desk) -> None:
    await desk.go_live("store")
    await desk.ask("PATCH", "/v1/operations/store.read", {"percent": 20, "reason": "r"})
    group = (await desk.status())["groups"]["store"]
    assert (group["stage"], group["percent"]) == ("live", None)


async def report(desk: Desk, worker: str, counters: RequestCounters, incarnation: str = "one") -> None:
    blob = {"worker": worker, "incarnation": incarnation, "at": time.time(), "epoch": 1, "age_s": 0.1, "state": "ok"}
    store = CounterStore(desk.side_client, "git")
    store.publish(worker, {**blob, "definition": "d", **counters.blob()})
    await store.aclose()


async def test_what_workers_counted_is_shown_by_side(desk: Desk) -> None:
    first, second = RequestCounters(), RequestCounters()
    await report(desk, "gateway-0", first)
    await report(desk, "gateway-1", second)

    async def both() -> bool:
        return [worker["id"] for worker in (await desk.status())["workers"]] == ["gateway-0", "gateway-1"]

    await until_async(both, "both workers are seen")
    for counters in (first, second):
        for _ in range(3):
            counters.answered("work.read", Side.OLD, Outcome.OK, 0.010)
        counters.answered("work.read", Side.NEW, Outcome.FAILURE, 0.100)
        counters.answered("work.read", None, Outcome.REFUSED, 0.001)
        counters.doubted(Doubt.NO_KEY)
    await report(desk, "gateway-0", first)
    await report(desk, "gateway-1", second)

    async def operation() -> Any:
        return (await desk.status())["operations"]["work.read"]

    async def all_seen() -> bool:
        return bool((await operation())["sides"]["old"]["n"] == 6)

    await until_async(all_seen, "all is counted")
    shown = await operation()
    assert shown["actual_percent"] == 25
    assert (shown["sides"]["new"]["n"], shown["sides"]["new"]["errors"]) == (2, 2)
    assert shown["sides"]["old"]["errors"] == 0
    assert shown["sides"]["old"]["p95_ms"] == pytest.approx(10, rel=0.02)
    assert shown["sides"]["new"]["p50_ms"] == pytest.approx(100, rel=0.02)
    assert 0 < shown["window_s"] <= 61
    metrics = (await desk.client.get("/metrics")).text
    assert 'crossfade_requests_total{operation="work.read",outcome="ok",side="old"} 6.0' in metrics


async def test_a_worker_is_shown_with_what_it_decides_by(desk: Desk) -> None:
    await report(desk, "gateway-0", RequestCounters())

    async def seen() -> bool:
        return bool((await desk.status())["workers"])

    await until_async(seen, "the worker is seen")
    worker = (await desk.status())["workers"][0]
    assert {"id", "epoch", "age_s"} <= set(worker)
    assert (worker["id"], worker["epoch"], worker["definition"], worker["state"]) == ("gateway-0", 1, "d", "ok")
    assert worker["age_s"] >= worker["silent_s"] >= 0


async def explain(desk: Desk, query: str) -> Any:
    answer = await desk.ask("GET", f"/v1/explain?{query}", by="viewer")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_decision_is_explained_as_workers_make_it(desk: Desk) -> None:
    await desk.go_live("workspace", percent=50)
    sides = set()
    for n in range(20):
        key = f"agent-{n}/task"
        explained = await explain(desk, f"operation=work.read&key=agent-{n}%2Ftask")
        assert set(explained) == {
            *("operation", "key", "side", "reason", "bucket_ppm", "percent", "stage", "epoch", "pending")
        }
        bucket = bucket_ppm(key_hash("git:workspace", key))
        assert (explained["key"], explained["bucket_ppm"], explained["reason"]) == (key, bucket, "percent")
        assert explained["side"] == ("new" if bucket < 500_000 else "old")
        sides.add(explained["side"])
    assert sides == {"old", "new"}


async def test_every_reason_is_told(desk: Desk) -> None:
    assert (await explain(desk, "operation=work.read&key=a"))["reason"] == "stage"
    assert (await explain(desk, "operation=work.read"))["reason"] == "stage"
    await desk.go_live("workspace", "ledger", percent=100)
    assert (await explain(desk, "operation=work.read"))["reason"] == "no_key"
    unkeyed = await explain(desk, "operation=ledger.write")
    assert (unkeyed["side"], unkeyed["reason"]) == (None, "no_key")
    pins = {"groups": {"workspace": {"allow": ["in"], "deny": ["out"]}}}
    await desk.ask("POST", "/v1/apply", {"policy": pins})
    assert (await explain(desk, "operation=work.read&key=in"))["reason"] == "allow"
    denied = await explain(desk, "operation=work.read&key=out")
    assert (denied["side"], denied["reason"]) == ("old", "deny")
    assert (await explain(desk, ""))["reason"] == "default"
    await desk.ask("POST", "/v1/kills", {"scope": "all", "reason": "r"})
    killed = await explain(desk, "operation=work.read&key=in")
    assert (killed["side"], killed["reason"], killed["percent"]) == ("old", "kill", 100)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("operation=nothing&key=a", "unknown_operation"),
        ("operation=alone&key=", "invalid_value"),
        ("operation=alone&key=" + "a" * 2049, "invalid_value"),
        ("operation=alone&keys=a", "invalid_value"),
        ("operation=alone&operation=alone", "invalid_value"),
    ],
)
async def test_a_question_that_cannot_be_meant_is_refused(desk: Desk, query: str, code: str) -> None:
    assert (await desk.ask("GET", f"/v1/explain?{query}")).json()["code"] == code


async def test_the_audit_tells_who_did_what_page_by_page(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    for percent in (20, 30, 40):
        body = {"percent": percent, "reason": f"to {percent}"}
        await desk.ask("PATCH", "/v1/groups/workspace", body, by="operator", headers={"X-Request-Id": f"r-{percent}"})
    first = (await desk.ask("GET", "/v1/audit?limit=2", by="viewer")).json()
    second = (await desk.ask("GET", f"/v1/audit?limit=2&cursor={first['next']}", by="viewer")).json()
    items = first["items"] + second["items"]
    assert [item["reason"] for item in items] == ["to 40", "to 30", "to 20", "test"]
    newest = items[0]
    assert (newest["by"], newest["role"], newest["action"]) == ("a-operator", "operator", "share")
    assert (newest["target"], newest["request_id"], newest["epoch"]) == ("workspace", "r-40", 5)
    assert newest["changed"] == {"percent": [30, 40]}
    assert newest["at"].endswith("+00:00")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=-1", "limit=x", "limit=1.5", "limit=٣", "cursor=x"])
async def test_a_page_that_cannot_be_meant_is_refused(desk: Desk, query: str) -> None:
    answer = await desk.ask("GET", f"/v1/audit?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("name", ["writes"])
async def test_what_is_not_there_yet_says_so_instead_of_nothing(desk: Desk, name: str) -> None:
    answer = await desk.ask("GET", f"/v1/{name}?limit=10")
    assert (answer.status_code, answer.json()["code"]) == (501, "not_yet_available")


async def test_every_answer_keeps_browsers_out(desk: Desk) -> None:
    for path in ("/v1/status", "/healthz", "/metrics", "/nothing"):
        answer = await desk.ask("GET", path, headers={"Origin": "https://evil.example"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = await desk.client.options("/v1/kills", headers={"Access-Control-Request-Method": "POST"})
    assert (preflight.status_code, preflight.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/v1/kills", "/v1/kills/all", "/v1/apply", "/v1/groups/workspace"])
async def test_nothing_changes_by_get(desk: Desk, path: str) -> None:
    answer = await desk.ask("GET", path)
    assert answer.status_code == 405
    assert "GET" not in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/status/", "/v1/nothing", "/v2/status", "//v1/status"])
async def test_what_is_not_there_is_not_found(desk: Desk, path: str) -> None:
    answer = await desk.ask("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_request_keeps_a_sound_id_and_gets_another_for_an_unsound_one(desk: Desk) -> None:
    kept = await desk.ask("GET", "/healthz", headers={"X-Request-Id": "abc-1.2_3"})
    assert kept.headers["x-request-id"] == "abc-1.2_3"
    for unsound in ("a b", "a" * 129, 'x"', ""):
        answer = await desk.ask("GET", "/healthz", headers={"X-Request-Id": unsound})
        assert answer.headers["x-request-id"] != unsound
        assert len(answer.headers["x-request-id"]) == 32
