from __future__ import annotations

import json

import pytest

from tests.support.control import HEADER_KEY, Desk, Json, migration
from tests.support.waiting import until_async


async def apply(desk: Desk, policy: Json, **more: object) -> Json:
    answer = await desk.ask("POST", "/v1/apply", {"policy": policy, **more})
    assert answer.status_code == 200, answer.text
    content: Json = answer.json()
    return content


def live(percent: float, *names: str) -> Json:
    return {"operations": {name: {"stage": "live", "percent": percent} for name in names}}


async def test_a_dry_run_tells_and_changes_nothing(desk: Desk) -> None:
    told = await apply(desk, live(25, "work.read", "work.write"), dry_run=True)
    assert told["changed"] == {
        "group workspace: stage": {"before": "off", "after": "live"},
        "group workspace: percent": {"before": 0, "after": 25},
    }
    assert (told["dry_run"], told["epoch"]) == (True, 1)
    assert (await desk.status())["epoch"] == 1


async def test_a_policy_is_applied_as_one_change(desk: Desk) -> None:
    policy = live(25, "work.read", "work.write", "store.read")
    policy["groups"] = {"workspace": {"allow": ["b", "a"], "deny": ["c"]}}
    applied = await apply(desk, policy, reason="the plan")
    assert applied["epoch"] == 2
    assert applied["changed"]["group workspace: allow"] == {"before": [], "after": ["a", "b"]}
    status = await desk.status()
    assert status["operations"]["store.read"]["effective_percent"] == 25
    assert status["operations"]["store.write"]["effective_percent"] == 0
    newest = (await desk.ask("GET", "/v1/audit?limit=1")).json()["items"][0]
    assert (newest["action"], newest["reason"], newest["epoch"]) == ("apply", "the plan", 2)
    assert (await apply(desk, policy))["changed"] == {}


async def test_what_a_file_does_not_say_stays(desk: Desk) -> None:
    await desk.go_live("workspace", "store", percent=40)
    await desk.ask("PATCH", "/v1/operations/store.read", {"mirror_percent": 5})
    applied = await apply(desk, {"operations": {"store.read": {"percent": 10}}})
    assert applied["changed"] == {"operation store.read: percent": {"before": 40, "after": 10}}
    operations = (await desk.status())["operations"]
    assert (operations["store.read"]["stage"], operations["store.read"]["mirror_percent"]) == ("live", 5)
    assert operations["work.read"]["percent"] == 40


async def test_a_file_that_says_off_ends_the_share_too(desk: Desk) -> None:
    await desk.go_live("store", percent=40)
    applied = await apply(desk, {"operations": {"store.read": {"stage": "off"}}})
    assert applied["changed"]["operation store.read: percent"] == {"before": 40, "after": 0}


async def test_a_file_never_re_arms(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "r"})
    await apply(desk, live(5, "work.read", "work.write"))
    assert [kill["scope"] for kill in (await desk.status())["kills"]] == ["group:workspace"]


REFUSALS = {
    "unknown operation": ({"operations": {"nothing": {"percent": 1}}}, 404, "unknown_operation"),
    "unknown group": ({"groups": {"nothing": {"deny": []}}}, 404, "unknown_group"),
    "half a group": (live(5, "work.read"), 422, "group_share"),
    "share outside live": ({"operations": {"alone": {"percent": 5}}}, 422, "stage_has_no_share"),
    "mirrored write": ({"operations": {"store.write": {"mirror_percent": 5}}}, 422, "rule_violation"),
    "dual": ({"groups": {"ledger": {"dual_percent": 5}}}, 501, "not_yet_available"),
    "later stage": ({"operations": {"alone": {"stage": "rampdown"}}}, 501, "not_yet_available"),
    "read leads": (live(5, "ledger.read"), 422, "rule_violation"),
    "bad percent": ({"operations": {"alone": {"percent": "5"}}}, 400, "invalid_value"),
    "bad stage": ({"operations": {"alone": {"stage": False}}}, 400, "invalid_value"),
    "unknown member": ({"operations": {"alone": {"share": 5}}}, 400, "invalid_value"),
    "instances": ({"sides": {"new": {"instances": ["http://evil.example:1"]}}}, 400, "invalid_value"),
    "keys": ({"groups": {"store": {"allow": [1]}}}, 400, "invalid_value"),
    "key text": ({"groups": {"store": {"allow": "a"}}}, 400, "invalid_value"),
}


@pytest.mark.parametrize(("policy", "status", "code"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_policy_that_breaks_a_rule_changes_nothing(desk: Desk, policy: Json, status: int, code: str) -> None:
    before = await desk.side_client.hgetall("cf:git:policy")
    both = {**live(5, "store.read"), **policy} if "operations" not in policy else policy
    answer = await desk.ask("POST", "/v1/apply", {"policy": both})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await desk.side_client.hgetall("cf:git:policy") == before


@pytest.mark.parametrize(
    "body", [{}, {"restore": True, "policy": {}}, {"restore": True, "dry_run": True}, {"policy": 1}]
)
async def test_an_order_to_apply_that_cannot_be_meant_is_refused(desk: Desk, body: Json) -> None:
    answer = await desk.ask("POST", "/v1/apply", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


async def test_an_apply_heeds_its_epoch(desk: Desk) -> None:
    body = {"policy": live(5, "store.read")}
    answer = await desk.ask("POST", "/v1/apply", body, headers={"If-Match": '"7"'})
    assert (answer.status_code, answer.json()["current"]) == (409, 1)


async def test_a_reload_adopts_what_is_new_and_leaves_the_rest(desk: Desk) -> None:
    await desk.go_live("store", percent=40)
    content = migration()
    content["operations"]["added"] = {
        "class": "read",
        "match": {"rest": "POST /added"},
        "key": HEADER_KEY,
        "stage": "live",
        "percent": 5,
    }
    content["operations"]["store.read"]["stage"] = "off"
    desk.rewrite(content)
    await desk.plane.reload()

    async def adopted() -> bool:
        return bool((await desk.status())["operations"].get("added", {}).get("percent") == 5)

    await until_async(adopted, "the new operation is adopted")
    assert (await desk.status())["operations"]["store.read"]["percent"] == 40
    differences = (await desk.ask("GET", "/v1/difference", by="viewer")).json()["differences"]
    assert differences["operation store.read"]["stage"] == {"before": "live", "after": "off"}
    assert "operation added" not in differences


@pytest.mark.parametrize("text", ["{", '{"migration": "git"}', json.dumps(migration(migration="other"))])
async def test_a_broken_or_foreign_file_leaves_everything_as_it_was(desk: Desk, text: str) -> None:
    before = await desk.status()
    desk.parts.migration_file.write_text(text)
    await desk.plane.reload()
    after = await desk.status()
    assert (after["definition"], after["epoch"]) == (before["definition"], before["epoch"])
