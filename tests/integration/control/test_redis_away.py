from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.acts import Order
from gateway.control.auth import Caller
from gateway.control.bodies import KillBody
from gateway.control.kills import kill_scope
from gateway.control.problems import Refused
from gateway.core.model import Scope
from gateway.core.roles import Role
from tests.support.control import Desk, desk_on
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.waiting import until, until_async


async def test_without_redis_nobody_changes_anything_and_the_truth_is_shown(desk: Desk) -> None:
    await desk.go_live("workspace")
    desk.redis.kill()
    await desk.lost()
    status = await desk.status()
    assert (status["state"], status["groups"]["workspace"]["percent"]) == ("stale", 50)
    assert status["policy_age_s"] > 2
    for by in ("machine", "approver", "stranger"):
        for method, path, body in (
            ("PATCH", "/v1/groups/workspace", {"percent": 1, "reason": "r"}),
            ("DELETE", "/v1/kills/all", {"reason": "r"}),
            ("POST", "/v1/tokens", {"name": "x", "role": "approver"}),
            ("POST", "/v1/apply", {"restore": True}),
        ):
            answer = await desk.ask(method, path, body, by=by)
            assert (answer.status_code, answer.json()["code"]) == (503, "policy_unavailable")
            assert "KILL" in answer.json()["detail"]
    assert (await desk.ask("GET", "/v1/status", by="approver")).status_code == 503
    assert (await desk.ask("GET", "/v1/status", by="stranger")).status_code == 503
    assert (await desk.ask("GET", "/v1/audit", by="machine")).status_code == 503
    assert (await desk.ask("GET", "/healthz", by=None)).status_code == 200
    desk.redis.start()
    await desk.recovered()
    assert (await desk.ask("PATCH", "/v1/groups/workspace", {"percent": 1, "reason": "r"})).status_code == 200


async def test_a_machine_token_that_was_revoked_before_the_outage_shows_nothing(desk: Desk) -> None:
    machine = next(i["name"] for i in (await desk.ask("GET", "/v1/tokens")).json()["items"] if i["name"][:3] == "up-")
    await desk.ask("DELETE", f"/v1/tokens/{machine}")
    desk.redis.kill()
    assert (await desk.ask("GET", "/v1/status", by="machine")).status_code == 503


async def test_a_kill_that_redis_did_not_take_is_kept_and_stored_later(desk: Desk) -> None:
    await desk.go_live("workspace")
    desk.redis.freeze()
    try:
        # As when Redis stops between the look at the token and the kill.
        body = KillBody.model_validate({"scope": "all", "reason": "now"})
        with pytest.raises(Refused, match="kept") as refused:
            await kill_scope(desk.acts, Order(Caller("ada", Role.OPERATOR), "r1"), body)
        assert refused.value.status == 503
        current = desk.plane.state.feed.current
        assert current is not None
        assert Scope.parse("all") in current.latches
    finally:
        desk.redis.resume()
    await until_async(lambda: desk.side_client.hexists("cf:git:policy", "kill:all"), "the kill is stored")


async def test_a_policy_that_redis_lost_comes_back_with_its_kills_and_the_machine_token(desk: Desk) -> None:
    await desk.go_live("workspace")
    await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "r"})
    before = await desk.status()
    desk.redis.forget_everything()
    await desk.side_client.connection_pool.disconnect()
    await until_async(lambda: desk.side_client.exists("cf:git:policy"), "the policy is back")
    await desk.recovered()
    after = await desk.status()
    assert (after["lineage"], after["kills"]) == (before["lineage"], before["kills"])
    assert after["epoch"] > before["epoch"]
    assert after["groups"]["workspace"]["percent"] == 50


async def test_a_start_without_redis_boots_as_soon_as_it_is_there(tmp_path: Path) -> None:
    with running_redis() as redis:
        redis.kill()
        starter = _StartsLater(redis)
        async with desk_on(redis, tmp_path, on_started=starter.start) as desk:
            assert (await desk.status())["epoch"] == 1


class _StartsLater:
    def __init__(self, redis: RedisProcess) -> None:
        self._redis = redis

    async def start(self, desk: Desk) -> None:
        assert (await desk.client.get("/readyz")).status_code == 503
        assert desk.plane.state.feed.current is None
        self._redis.start()


async def test_a_restart_knows_the_policy_and_makes_no_second_one(tmp_path: Path) -> None:
    with running_redis() as redis:
        async with desk_on(redis, tmp_path) as desk:
            await desk.go_live("workspace", percent=25)
            before = await desk.status()
        async with desk_on(redis, tmp_path) as desk:
            after = await desk.status()
    assert (after["epoch"], after["lineage"]) == (before["epoch"], before["lineage"])
    assert after["groups"]["workspace"]["percent"] == 25


async def test_a_data_directory_that_knows_a_policy_boots_no_other(tmp_path: Path) -> None:
    with running_redis() as redis:
        async with desk_on(redis, tmp_path) as desk:
            await desk.go_live("workspace", percent=25)
            await until(lambda: '\\"epoch\\":2' in (tmp_path / "policy-git.json").read_text(), "the copy on disk")
        redis.forget_everything()
        async with desk_on(redis, tmp_path) as desk:
            status = await desk.status()
            assert (status["state"], status["groups"]["workspace"]["percent"]) == ("degraded", 25)
            assert not await desk.side_client.exists("cf:git:policy")
            refused = await desk.ask("PATCH", "/v1/groups/workspace", {"percent": 1, "reason": "r"})
            assert (refused.status_code, refused.json()["code"]) == (503, "policy_unavailable")
            restored = await desk.ask("POST", "/v1/apply", {"restore": True, "reason": "Redis was emptied"})
            assert restored.status_code == 200, restored.text
            await desk.recovered()
            assert (await desk.status())["groups"]["workspace"]["percent"] == 25
            newest = (await desk.ask("GET", "/v1/audit?limit=1")).json()["items"][0]
            assert (newest["action"], newest["by"], newest["reason"]) == ("restore", "a-approver", "Redis was emptied")


async def test_there_is_nothing_to_restore_where_nothing_is_lost(desk: Desk) -> None:
    refused = await desk.ask("POST", "/v1/apply", {"restore": True})
    assert (refused.status_code, refused.json()["rule"]) == (422, "nothing_to_restore")
