"""Alerts that kill: by token, by signature, once, and never more than the file says."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.control import Desk, Json, desk_on, migration
from tests.support.redis_process import RedisProcess, running_redis

SECRET = b"secret-of-the-incidents"
FIRING = {"status": "firing", "alerts": [{"status": "firing", "labels": {"alertname": "ErrorBudgetBurn"}}]}


@pytest.fixture
def incident_redis() -> RedisProcess:  # type: ignore[misc]  # a generator, as pytest has them
    with running_redis() as process:
        yield process


@pytest.fixture
async def alerted(tmp_path: Path, incident_redis: RedisProcess) -> AsyncIterator[Desk]:
    file = tmp_path / "incident.secret"
    file.write_bytes(SECRET + b"\n")
    content = migration(incidents={"scope": "group:store", "secret_file": str(file)})
    async with desk_on(incident_redis, tmp_path, content) as desk:
        yield desk


def signed(body: bytes, late_s: float = 0.0, secret: bytes = SECRET) -> dict[str, str]:
    moment = int(time.time() - late_s)
    digest = hmac.new(secret, f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Crossfade-Signature": f"t={moment},v1={digest}", "Content-Type": "application/json"}


async def send(desk: Desk, content: Json, **how: object) -> httpx.Response:
    body = json.dumps(content).encode()
    return await desk.client.post("/v1/incidents", content=body, headers=signed(body, **how))  # type: ignore[arg-type]


async def kills(desk: Desk) -> list[tuple[str, str, str]]:
    return [(kill["scope"], kill["by"], kill["reason"]) for kill in (await desk.status())["kills"]]


async def test_an_alert_kills_the_scope_of_the_file_and_its_end_re_arms_nothing(alerted: Desk) -> None:
    answer = await alerted.ask("POST", "/v1/incidents", {**FIRING, "scope": "all"}, by="operator")
    assert answer.status_code == 200, answer.text
    assert answer.json()["scope"] == "group:store"
    assert await kills(alerted) == [("group:store", "a-operator", "incident: ErrorBudgetBurn")]
    over = await alerted.ask("POST", "/v1/incidents", {**FIRING, "status": "resolved"}, by="operator")
    assert (over.status_code, over.json()["killed"]) == (200, False)
    assert len(await kills(alerted)) == 1


async def test_a_signature_stands_for_a_token_once(alerted: Desk) -> None:
    body = json.dumps({"reason": "the disk\nis full"}).encode()
    fields = signed(body)
    first = await alerted.client.post("/v1/incidents", content=body, headers=fields)
    assert first.status_code == 200, first.text
    assert (await kills(alerted))[0][:2] == ("group:store", "incident")
    again = await alerted.client.post("/v1/incidents", content=body, headers=fields)
    assert (again.status_code, again.json()["code"]) == (401, "token_required")


@pytest.mark.parametrize("how", [{"late_s": 400}, {"late_s": -400}, {"secret": b"another-secret-of-it"}])
async def test_a_signature_that_is_old_early_or_wrong_kills_nothing(alerted: Desk, how: dict[str, object]) -> None:
    answer = await send(alerted, FIRING, **how)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_required")
    assert await kills(alerted) == []


@pytest.mark.parametrize("header", ["", "t=1", "t=x,v1=y", "v1=" + "0" * 64, "t=1,v1=" + "0" * 64 + ",v1=" + "0" * 64])
async def test_what_is_no_signature(alerted: Desk, header: str) -> None:
    fields = {"Crossfade-Signature": header, "Content-Type": "application/json"}
    answer = await alerted.client.post("/v1/incidents", content=b"{}", headers=fields)
    assert answer.status_code == 401
    assert await kills(alerted) == []


async def test_the_signed_body_is_the_one_that_counts(alerted: Desk) -> None:
    fields = signed(b'{"reason": "a"}')
    answer = await alerted.client.post("/v1/incidents", content=b'{"reason": "b"}', headers=fields)
    assert answer.status_code == 401


async def test_neither_token_nor_signature(alerted: Desk) -> None:
    assert (await alerted.ask("POST", "/v1/incidents", FIRING, by=None)).status_code == 401
    assert (await alerted.ask("POST", "/v1/incidents", FIRING, by="viewer")).status_code == 403


async def test_without_a_scope_in_the_file_alerts_are_refused(desk: Desk) -> None:
    answer = await desk.ask("POST", "/v1/incidents", FIRING, by="operator")
    assert (answer.status_code, answer.json()["rule"]) == (422, "no_incidents")
    assert (await send(desk, FIRING)).status_code == 401


async def test_a_signature_counts_once_over_restarts_of_control_and_alerts_kill_without_redis(
    tmp_path: Path, incident_redis: RedisProcess
) -> None:
    file = tmp_path / "incident.secret"
    file.write_bytes(SECRET)
    content = migration(incidents={"scope": "group:store", "secret_file": str(file)})
    body = json.dumps(FIRING).encode()
    headers = signed(body)
    async with desk_on(incident_redis, tmp_path, content) as desk:
        assert (await desk.client.post("/v1/incidents", content=body, headers=headers)).status_code == 200
    async with desk_on(incident_redis, tmp_path, content) as desk:
        again = await desk.client.post("/v1/incidents", content=body, headers=headers)
        assert (again.status_code, again.json()["code"]) == (401, "token_required")
        incident_redis.stop()
        late = await send(desk, {"reason": "while Redis is away"})
        assert (late.status_code, late.json()["code"]) == (503, "policy_unavailable")
        assert "it is kept and stored as soon as possible" in late.json()["detail"]
