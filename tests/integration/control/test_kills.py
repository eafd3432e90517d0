from __future__ import annotations

import asyncio

import pytest

from gateway.core.model import Scope
from tests.support.control import Desk, Json
from tests.support.waiting import until, until_async


async def kill(desk: Desk, scope: str, reason: str = "errors", by: str = "operator") -> Json:
    answer = await desk.ask("POST", "/v1/kills", {"scope": scope, "reason": reason}, by=by)
    assert answer.status_code == 200, answer.text
    content: Json = answer.json()
    return content


async def test_a_kill_returns_everything_under_it_to_old(desk: Desk) -> None:
    await desk.go_live("workspace", "store")
    killed = await kill(desk, "group:store")
    assert killed["changed"] == {"killed": {"before": False, "after": True}}
    assert (killed["kind"], killed["by"], killed["reason"]) == ("kill", "a-operator", "errors")
    operations = (await desk.status())["operations"]
    assert {name: (o["killed"], o["effective_percent"], o["percent"]) for name, o in operations.items()} == {
        "store.read": (True, 0, 50),
        "store.write": (True, 0, 50),
        "work.read": (False, 50, 50),
        "work.write": (False, 50, 50),
        "ledger.read": (False, 0, 0),
        "ledger.write": (False, 0, 0),
        "alone": (False, 0, 0),
    }


@pytest.mark.parametrize(
    ("scope", "effective"),
    [
        ("all", "all"),
        ("operation:work.read", "group:workspace"),
        ("operation:work.write", "group:workspace"),
        ("operation:store.read", "operation:store.read"),
        ("operation:ledger.write", "group:ledger"),
        ("operation:ledger.read", "operation:ledger.read"),
        ("operation:alone", "operation:alone"),
    ],
)
async def test_a_kill_names_what_it_covers(desk: Desk, scope: str, effective: str) -> None:
    killed = await kill(desk, scope)
    assert (killed["scope"], killed["effective_scope"]) == (scope, effective)
    assert [(k["scope"], k["effective_scope"]) for k in (await desk.status())["kills"]] == [(scope, effective)]


async def test_a_repeated_kill_changes_nothing_and_is_no_error(desk: Desk) -> None:
    first = await kill(desk, "all", "first")
    again = await kill(desk, "all", "second", by="approver")
    assert (again["epoch"], again["changed"]) == (first["epoch"], {})
    assert (again["reason"], again["by"], again["at"]) == ("first", "a-operator", first["at"])


async def test_a_kill_needs_no_epoch(desk: Desk) -> None:
    await desk.go_live("workspace")
    body = {"scope": "all", "reason": "r"}
    assert (await desk.ask("POST", "/v1/kills", body, headers={"If-Match": '"1"'})).status_code == 200


async def test_a_kill_among_changes_is_never_lost(desk: Desk) -> None:
    await desk.go_live("workspace")
    shares = (desk.ask("PATCH", "/v1/groups/workspace", {"percent": n, "reason": "r"}) for n in range(1, 9))
    answers = await asyncio.gather(*shares, desk.ask("POST", "/v1/kills", {"scope": "all", "reason": "r"}))
    assert answers[-1].status_code == 200
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert [kill["scope"] for kill in (await desk.status())["kills"]] == ["all"]


@pytest.mark.parametrize("scope", ["group:nothing", "operation:nothing", "group:alone", "operation:workspace"])
async def test_what_does_not_exist_cannot_be_killed_or_re_armed(desk: Desk, scope: str) -> None:
    for method, path, body in (
        ("POST", "/v1/kills", {"scope": scope, "reason": "r"}),
        ("DELETE", f"/v1/kills/{scope}", {"reason": "r"}),
    ):
        answer = await desk.ask(method, path, body)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_scope")


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "everything", "reason": "r"},
        {"scope": "group:", "reason": "r"},
        {"scope": "", "reason": "r"},
        {"scope": 1, "reason": "r"},
        {"scope": ["all"], "reason": "r"},
        {"reason": "r"},
        {"scope": "all"},
        {"scope": "all", "reason": ""},
        {"scope": "all", "reason": "r", "accept_data_loss": "yes"},
        {"scope": "all", "reason": "r", "why": "x"},
    ],
)
async def test_a_kill_that_cannot_be_meant_kills_nothing(desk: Desk, body: Json) -> None:
    answer = await desk.ask("POST", "/v1/kills", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert (await desk.status())["kills"] == []


async def test_a_re_arm_comes_back_at_the_first_step(desk: Desk) -> None:
    await desk.go_live("workspace", percent=50)
    await kill(desk, "operation:work.read")
    answer = await desk.ask("DELETE", "/v1/kills/operation:work.read", {"reason": "fixed"})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["changed"] == {
        "killed": {"before": True, "after": False},
        "group workspace: percent": {"before": 50, "after": 1},
    }
    assert (content["effective_scope"], content["still_killed_by"]) == ("group:workspace", [])
    status = await desk.status()
    assert (status["kills"], status["groups"]["workspace"]["percent"]) == ([], 1)


async def test_a_re_arm_may_name_a_share_up_to_the_stored_one(desk: Desk) -> None:
    await desk.go_live("workspace", percent=50)
    await kill(desk, "group:workspace")
    above = await desk.ask("DELETE", "/v1/kills/group:workspace", {"reason": "fixed", "percent": 51})
    assert (above.status_code, above.json()["rule"]) == (422, "rearm_within_stored")
    within = await desk.ask("DELETE", "/v1/kills/group:workspace", {"reason": "fixed", "percent": 25})
    assert within.json()["changed"]["group workspace: percent"] == {"before": 50, "after": 25}


async def test_a_re_arm_removes_exactly_one_kill(desk: Desk) -> None:
    await desk.go_live("workspace")
    await kill(desk, "all")
    await kill(desk, "operation:work.read")
    answer = await desk.ask("DELETE", "/v1/kills/operation:work.read", {"reason": "fixed"})
    assert answer.json()["still_killed_by"] == ["all"]
    status = await desk.status()
    assert [kill["scope"] for kill in status["kills"]] == ["all"]
    assert status["operations"]["work.read"]["killed"] is True


async def test_what_is_not_killed_cannot_be_re_armed(desk: Desk) -> None:
    await kill(desk, "all")
    answer = await desk.ask("DELETE", "/v1/kills/group:workspace", {"reason": "fixed"})
    assert (answer.status_code, answer.json()["rule"]) == (422, "not_killed")
    assert answer.json()["legal"] == "crossfade rearm all --reason …"


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "r", "percent": "5"}, {"reason": "r", "skip": True}])
async def test_a_re_arm_that_cannot_be_meant_re_arms_nothing(desk: Desk, body: Json) -> None:
    await kill(desk, "all")
    answer = await desk.ask("DELETE", "/v1/kills/all", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert len((await desk.status())["kills"]) == 1


async def test_a_scope_is_not_re_armed_while_its_kill_file_is_there(desk: Desk) -> None:
    (desk.data_dir / "KILL").write_text("group:workspace\nby hand\n")
    scope = Scope.parse("group:workspace")
    await until(lambda: scope in desk.plane.state.feed.held_break_glass, "the file was seen")
    await until_async(lambda: desk.side_client.hexists("cf:git:policy", "kill:group:workspace"), "the kill is stored")
    assert (await desk.status())["break_glass"] == ["group:workspace"]
    refused = await desk.ask("DELETE", "/v1/kills/group:workspace", {"reason": "fixed"})
    assert (refused.status_code, refused.json()["rule"]) == (422, "break_glass_present")
    (desk.data_dir / "KILL").unlink()
    await until(lambda: not desk.plane.state.feed.held_break_glass, "the file is gone")
    answer = await desk.ask("DELETE", "/v1/kills/group:workspace", {"reason": "fixed"})
    assert answer.status_code == 200
    assert answer.json()["still_killed_by"] == []


async def test_a_break_glass_key_that_names_nothing_is_noted_until_it_is_gone(desk: Desk) -> None:
    await desk.side_client.set("cf:git:kill:group:workspce", "a slip")

    async def is_noted() -> bool:
        return any("cf:git:kill:group:workspce kills nothing" in note for note in (await desk.status())["notes"])

    await until_async(is_noted, "control says so")
    assert (await desk.status())["kills"] == []
    await desk.side_client.delete("cf:git:kill:group:workspce")

    async def is_forgotten() -> bool:
        return not await is_noted()

    await until_async(is_forgotten, "control says it no more")


async def test_a_reason_cannot_forge_a_line_or_a_terminal_sequence(desk: Desk) -> None:
    killed = await kill(desk, "all", 'x\r\n{"by": "root"}\x1b[2J\u2028\u202e')
    assert killed["reason"] == 'x {"by": "root"}\N{REPLACEMENT CHARACTER}[2J \N{REPLACEMENT CHARACTER}'
    newest = (await desk.ask("GET", "/v1/audit?limit=1")).json()["items"][0]
    assert (newest["by"], newest["reason"]) == ("a-operator", killed["reason"])
