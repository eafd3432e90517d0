from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from gateway.control.endpoints import ENDPOINTS, Endpoint
from gateway.control.problems import STATUS
from gateway.core.roles import Role
from tests.support.control import Desk


@dataclass(frozen=True)
class Sample:
    path: str
    body: Any = None


SAMPLES = {
    "status": Sample("/v1/status"),
    "change_operation": Sample("/v1/operations/store.read", {"mirror_percent": 5}),
    "change_group": Sample("/v1/groups/store", {"mirror_percent": 7}),
    "kill": Sample("/v1/kills", {"scope": "group:store", "reason": "r"}),
    "rearm": Sample("/v1/kills/group:ledger", {"reason": "r"}),
    "explain": Sample("/v1/explain?operation=alone&key=a"),
    "audit": Sample("/v1/audit"),
    "difference": Sample("/v1/difference"),
    "apply": Sample("/v1/apply", {"policy": {"operations": {"store.read": {"mirror_percent": 9}}}}),
    "list_tokens": Sample("/v1/tokens"),
    "create_token": Sample("/v1/tokens", {"name": "carol", "role": "viewer"}),
    "revoke_token": Sample("/v1/tokens/a-viewer"),
    "comparisons": Sample("/v1/comparisons"),
    "writes": Sample("/v1/writes"),
    "consistency": Sample("/v1/consistency"),
    "noise": Sample("/v1/noise"),
    "change_noise": Sample("/v1/noise/store.read", {"accept": ["$.a"], "reason": "r"}),
    "incidents": Sample("/v1/incidents", {"alerts": []}),
    "begin_drill": Sample("/v1/drills", {"fault": "errors", "reason": "r", "operation": "work.read", "load": 0}),
    "drills": Sample("/v1/drills"),
    "drill": Sample("/v1/drills/none"),
    "end_drill": Sample("/v1/drills/none"),
    "notify": Sample("/v1/notifications", {"reason": "r"}),
    "trips": Sample("/v1/trips"),
    "trip": Sample("/v1/trips/none"),
    "health": Sample("/healthz"),
    "ready": Sample("/readyz"),
    "metrics": Sample("/metrics"),
    "openapi": Sample("/openapi.json"),
}

REFUSED = {401: "token_required", 403: "role_required"}


def test_every_call_has_a_sample() -> None:
    assert set(SAMPLES) == {endpoint.name for endpoint in ENDPOINTS}


def wanted_status(endpoint: Endpoint, caller: str | None) -> int | None:
    """The refusal that a caller gets, or None."""
    if endpoint.role is None:
        return None
    if caller in (None, "stranger"):
        return 401
    assert caller is not None
    return 403 if Role.parse(caller) < endpoint.role else None


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_a_call_is_for_its_role_and_above(desk: Desk, endpoint: Endpoint) -> None:
    await desk.ask("POST", "/v1/kills", {"scope": "group:ledger", "reason": "for the re-arm"})
    sample = SAMPLES[endpoint.name]
    for caller in (None, "stranger", "viewer", "operator", "approver"):
        before = await desk.side_client.hgetall("cf:git:policy"), await desk.side_client.hkeys("cf:git:tokens")
        answer = await desk.ask(endpoint.method, sample.path, sample.body, by=caller)
        wanted = wanted_status(endpoint, caller)
        if wanted is None:
            assert answer.status_code in (endpoint.status, 404, 422, 501), answer.text
            continue
        assert answer.status_code == wanted
        assert answer.json()["code"] == REFUSED[wanted]
        assert answer.headers["content-type"] == "application/problem+json"
        assert (wanted == 401) == (answer.headers.get("www-authenticate") == "Bearer")
        after = await desk.side_client.hgetall("cf:git:policy"), await desk.side_client.hkeys("cf:git:tokens")
        assert after == before


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.role], ids=lambda endpoint: endpoint.name)
async def test_too_low_a_role_is_refused_before_the_body_is_looked_at(desk: Desk, endpoint: Endpoint) -> None:
    if endpoint.role in (None, Role.VIEWER):
        return
    answer = await desk.ask(endpoint.method, SAMPLES[endpoint.name].path, by="viewer", content=b"{")
    assert answer.status_code == 403


async def test_too_low_a_role_is_audited(desk: Desk) -> None:
    await desk.ask("POST", "/v1/kills", {"scope": "all", "reason": "r"}, by="viewer", headers={"X-Request-Id": "r-7"})
    newest = (await desk.ask("GET", "/v1/audit?limit=1")).json()["items"][0]
    assert (newest["by"], newest["role"], newest["outcome"]) == ("a-viewer", "viewer", "role_required")
    assert (newest["target"], newest["request_id"]) == ("POST /v1/kills", "r-7")


async def test_an_operator_goes_back_and_only_an_approver_forward(desk: Desk) -> None:
    forward = {"stage": "live", "reason": "go"}
    refused = await desk.ask("PATCH", "/v1/groups/workspace", forward, by="operator")
    assert (refused.status_code, refused.json()["role"]) == (403, "approver")
    assert (await desk.status())["groups"]["workspace"]["stage"] == "off"
    await desk.go_live("workspace")
    back = await desk.ask("PATCH", "/v1/groups/workspace", {"stage": "off", "reason": "back"}, by="operator")
    assert back.status_code == 200
    audit = (await desk.ask("GET", "/v1/audit")).json()["items"]
    assert [(item["by"], item["outcome"]) for item in audit if item["action"] in ("stage", "refused")] == [
        ("a-operator", "done"),
        ("a-approver", "done"),
        ("a-operator", "role_required"),
    ]


async def test_skip_is_an_approvers_even_where_nothing_is_skipped(desk: Desk) -> None:
    body = {"stage": "off", "skip": True, "reason": "r"}
    assert (await desk.ask("PATCH", "/v1/groups/workspace", body, by="operator")).status_code == 403


async def test_a_revoked_token_ends_with_the_next_request(desk: Desk) -> None:
    assert (await desk.ask("GET", "/v1/status", by="viewer")).status_code == 200
    assert (await desk.ask("DELETE", "/v1/tokens/a-viewer")).status_code == 200
    assert (await desk.ask("GET", "/v1/status", by="viewer")).status_code == 401


async def test_the_last_approver_cannot_be_revoked(desk: Desk) -> None:
    machine = (await desk.ask("GET", "/v1/tokens")).json()["items"][-1]["name"]
    assert machine.startswith("up-")
    assert (await desk.ask("DELETE", f"/v1/tokens/{machine}")).status_code == 200
    refused = await desk.ask("DELETE", "/v1/tokens/a-approver")
    assert (refused.status_code, refused.json()["rule"]) == (422, "last_approver")
    assert (await desk.ask("GET", "/v1/status")).status_code == 200


async def test_a_revoked_machine_token_is_gone_with_its_file(desk: Desk) -> None:
    machine = next(i["name"] for i in (await desk.ask("GET", "/v1/tokens")).json()["items"] if i["name"][:3] == "up-")
    await desk.ask("DELETE", f"/v1/tokens/{machine}")
    assert (await desk.ask("GET", "/v1/status", by="machine")).status_code == 401
    assert not (desk.data_dir / "token").exists()


async def test_a_made_token_works_and_its_secret_is_shown_once(desk: Desk) -> None:
    made = await desk.ask("POST", "/v1/tokens", {"name": "carol", "role": "operator", "ttl_s": 3600})
    desk.tokens["carol"] = made.json()["token"]
    assert made.status_code == 201
    assert desk.tokens["carol"].startswith("cf_")
    assert (await desk.ask("POST", "/v1/kills", {"scope": "all", "reason": "r"}, by="carol")).status_code == 200
    listed = (await desk.ask("GET", "/v1/tokens")).text
    audit = (await desk.ask("GET", "/v1/audit")).text
    stored = await desk.side_client.hgetall("cf:git:tokens")
    for place in (listed, audit, str(stored)):
        assert desk.tokens["carol"] not in place
    assert "carol" in audit
    taken = await desk.ask("POST", "/v1/tokens", {"name": "carol", "role": "viewer"})
    assert (taken.status_code, taken.json()["code"]) == (409, "token_exists")


async def test_failed_attempts_are_limited_and_never_lock_a_valid_token_out(desk: Desk) -> None:
    codes = [(await desk.ask("GET", "/v1/status", by="stranger")).status_code for _ in range(25)]
    assert codes == [401] * 20 + [429] * 5
    limited = await desk.ask("GET", "/v1/status", by="stranger")
    assert limited.json()["code"] == "too_many_attempts"
    assert 1 <= int(limited.headers["retry-after"]) <= 61
    assert (await desk.ask("POST", "/v1/kills", {"scope": "all", "reason": "r"}, by="operator")).status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer  ", "Basic YTpi", "Bearer a b", "Bearer \xff", "cf_abc"])
async def test_what_is_no_bearer_token_is_refused(desk: Desk, value: str) -> None:
    answer = await desk.ask("GET", "/v1/status", by=None, headers={"Authorization": value.encode("latin-1")})  # type: ignore[dict-item]  # raw bytes on purpose
    assert answer.status_code == 401


async def test_a_token_in_the_query_is_none(desk: Desk) -> None:
    answer = await desk.client.get("/v1/status", params={"access_token": desk.tokens["approver"]})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "role": "viewer"},
        {"name": "a b", "role": "viewer"},
        {"name": "-a", "role": "viewer"},
        {"name": "a\n", "role": "viewer"},
        {"name": "a" * 65, "role": "viewer"},
        {"name": "a", "role": "root"},
        {"name": "a", "role": 3},
        {"name": "a"},
        {"name": "a", "role": "viewer", "ttl_s": 0},
        {"name": "a", "role": "viewer", "ttl_s": "1h"},
        {"name": "a", "role": "viewer", "ttl_s": True},
        {"name": "a", "role": "viewer", "secret": "mine"},
    ],
)
async def test_a_token_that_cannot_be_meant_is_not_made(desk: Desk, body: dict[str, Any]) -> None:
    before = await desk.side_client.hlen("cf:git:tokens")
    answer = await desk.ask("POST", "/v1/tokens", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert await desk.side_client.hlen("cf:git:tokens") == before


def test_every_code_has_a_status() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())
