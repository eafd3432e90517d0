"""Drills as control takes them: who may, what cannot be drilled, what is put back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.control.acts import Order
from gateway.control.auth import Caller
from gateway.core.drill import DrillOrder, Fault, tripped_by
from gateway.core.model import Latch, LatchKind, Ppm, Scope, Side
from gateway.core.roles import Role
from gateway.state.counters import CounterStore
from gateway.state.drills import DrillStore
from tests.support.control import Desk, desk_on, migration
from tests.support.raw_upstream import Peer
from tests.support.sides import StubSide, stub_sides
from tests.support.waiting import until_async

ERRORS = {"fault": "errors", "reason": "test", "operation": "work.read"}


async def ended(desk: Desk, drill: str) -> dict[str, Any]:
    report: dict[str, Any] = {}

    async def is_over() -> bool:
        nonlocal report
        report = (await desk.ask("GET", f"/v1/drills/{drill}", by="viewer")).json()
        return bool(report["phase"] == "ended")

    await until_async(is_over, "the drill ends", 30)
    return report


async def test_without_workers_it_fails_and_puts_everything_back(desk: Desk) -> None:
    answer = await desk.ask("POST", "/v1/drills", {**ERRORS, "arm_s": 1, "load": 0})
    assert answer.status_code == 202, answer.text
    report = await ended(desk, answer.json()["id"])
    assert report["passed"] is False
    assert "no worker reports" in report["why"]
    assert report["restored"] is True
    assert report["before"]["stage"] == "off"
    status = await desk.status()
    assert status["groups"]["workspace"]["stage"] == "off"
    assert status["kills"] == []
    assert await desk.side_client.get("cf:git:drill") is None
    listed = (await desk.ask("GET", "/v1/drills", by="viewer")).json()["items"]
    assert [item["id"] for item in listed] == [report["id"]]
    actions = [item["action"] for item in (await desk.ask("GET", "/v1/audit")).json()["items"]]
    assert actions[:1] == ["drill_failed"]
    assert "drill" in actions


async def test_with_load_and_no_worker(desk: Desk) -> None:
    answer = await desk.ask("POST", "/v1/drills", ERRORS)
    assert "is a gateway running" in (await ended(desk, answer.json()["id"]))["why"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"fault": "fire", "reason": "r"}, 400, "invalid_value"),
        ({"fault": "errors"}, 400, "invalid_value"),
        ({"fault": "errors", "reason": "r", "load": 1001}, 400, "invalid_value"),
        ({"fault": "errors", "reason": "r", "load": -1}, 400, "invalid_value"),
        ({"fault": "errors", "reason": "r", "load": True}, 400, "invalid_value"),
        ({"fault": "errors", "reason": "r", "share_percent": 101}, 400, "invalid_value"),
        ({"fault": "errors", "reason": "r", "arm_s": 0}, 400, "invalid_value"),
        ({"fault": "errors", "reason": "r", "operation": "nothing"}, 404, "unknown_operation"),
        ({"fault": "errors", "reason": "r", "more": 1}, 400, "invalid_value"),
    ],
)
async def test_what_cannot_be_asked_for(desk: Desk, body: dict[str, Any], status: int, code: str) -> None:
    answer = await desk.ask("POST", "/v1/drills", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await desk.ask("GET", "/v1/drills")).json()["items"] == []


async def test_what_is_killed_cannot_be_drilled(desk: Desk) -> None:
    await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "r"})
    answer = await desk.ask("POST", "/v1/drills", ERRORS)
    assert (answer.status_code, answer.json()["rule"]) == (422, "killed")
    assert answer.json()["legal"] == "crossfade rearm group:workspace --reason …"


async def test_one_at_a_time_and_ended_by_hand(desk: Desk) -> None:
    begun = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()

    async def is_arming() -> bool:
        report = (await desk.ask("GET", f"/v1/drills/{begun['id']}")).json()
        return bool(report["phase"] == "arming")

    await until_async(is_arming, "it waits")
    assert (await desk.status())["groups"]["workspace"]["stage"] == "live"
    second = await desk.ask("POST", "/v1/drills", ERRORS)
    assert (second.status_code, second.json()["rule"]) == (422, "one_drill")
    report = (await desk.ask("DELETE", f"/v1/drills/{begun['id']}", by="operator")).json()
    assert (report["phase"], report["passed"], report["restored"]) == ("ended", False, True)
    assert (await desk.status())["groups"]["workspace"]["stage"] == "off"
    assert (await desk.ask("DELETE", "/v1/drills/none")).json()["code"] == "unknown_drill"


async def test_shares_of_others_are_what_they_were(desk: Desk, new: StubSide) -> None:
    """A drill whose trip took everything out lowers nobody's share."""
    await goes_to(desk, new)
    await desk.go_live("workspace", percent=50)
    await desk.go_live("store", percent=25)
    report = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()
    await provoked(desk, report["id"], "all")
    ended_report = (await desk.ask("DELETE", f"/v1/drills/{report['id']}")).json()
    assert ended_report["restored"] is True
    status = await desk.status()
    assert status["kills"] == []
    assert status["groups"]["workspace"]["percent"] == 50
    assert status["operations"]["store.read"]["percent"] == 25


async def provoked(desk: Desk, drill: str, scope: str) -> None:
    """A worker trips by a drill."""
    by = tripped_by(drill, "detector:gateway-0")
    latch = Latch(Scope.parse(scope), LatchKind.TRIP, "errors: 17 of 17", by, desk.acts.now())
    await desk.acts.store.kill(
        latch, desk.acts.entry(Order(Caller("test", Role.APPROVER), "r"), "trip", scope, "drill")
    )


async def goes_to(desk: Desk, new: StubSide) -> None:
    """New is this stub from now on."""
    sides = {"old": {"instances": ["http://127.0.0.1:9"]}, "new": {"instances": [new.url]}}
    desk.rewrite(migration(sides=sides))
    await desk.plane.reload()


@pytest.fixture
async def new() -> AsyncIterator[StubSide]:
    async with stub_sides() as both:
        yield both[Side.NEW]


async def test_what_is_unwell_without_the_fault_is_not_given_back(desk: Desk) -> None:
    """A real outage came in the middle of the rehearsed one: nobody listens where new should be."""
    await desk.go_live("store", percent=50)
    body = {"fault": "errors", "reason": "test", "operation": "store.read", "load": 0}
    report = (await desk.ask("POST", "/v1/drills", body)).json()
    await provoked(desk, report["id"], "operation:store.read")
    report = (await desk.ask("DELETE", f"/v1/drills/{report['id']}")).json()
    assert (report["passed"], report["restored"]) == (False, False)
    assert "the kill of operation:store.read stands" in report["why"]
    assert "unwell without the fault" in report["why"]

    async def is_real() -> bool:
        (kill,) = (await desk.status())["kills"]
        return (kill["kind"], kill["by"]) == ("trip", "detector:gateway-0") and "unwell" in kill["reason"]

    await until_async(is_real, "it is a real trip")
    refused = await desk.ask("DELETE", "/v1/kills/operation:store.read", {"reason": "r"})
    assert refused.json()["rule"] == "cool_down"
    entries = (await desk.ask("GET", "/v1/audit")).json()["items"]
    (entry,) = [entry for entry in entries if entry["action"] == "trip" and entry["by"] == "detector:gateway-0"]
    assert entry["target"] == "operation:store.read"


async def test_new_that_answers_badly_is_unwell(desk: Desk, new: StubSide) -> None:
    await goes_to(desk, new)

    async def fail(peer: Peer) -> None:
        while True:
            await peer.receive_request()
            await peer.send(b"HTTP/1.1 503 broken\r\ncontent-length: 2\r\n\r\nno")

    new.script = fail
    await desk.go_live("store", percent=50)
    body = {"fault": "errors", "reason": "test", "operation": "store.read", "load": 0}
    report = (await desk.ask("POST", "/v1/drills", body)).json()
    await provoked(desk, report["id"], "operation:store.read")
    report = (await desk.ask("DELETE", f"/v1/drills/{report['id']}")).json()
    assert "status 503" in report["why"]


async def test_a_kill_while_it_arms_ends_it(desk: Desk) -> None:
    await desk.go_live("store", percent=50)
    body = {"fault": "errors", "reason": "test", "operation": "store.read", "load": 0}
    begun = (await desk.ask("POST", "/v1/drills", body)).json()
    await desk.ask("POST", "/v1/kills", {"scope": "operation:store.read", "reason": "it burns"})
    report = await ended(desk, begun["id"])
    assert "operation:store.read was killed by a-approver meanwhile: it burns" in report["why"]
    assert [kill["scope"] for kill in (await desk.status())["kills"]] == ["operation:store.read"]


async def test_kills_of_others_are_not_touched(desk: Desk) -> None:
    await desk.go_live("workspace", percent=50)
    report = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()
    await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "real"})
    await desk.ask("DELETE", f"/v1/drills/{report['id']}")
    assert [kill["scope"] for kill in (await desk.status())["kills"]] == ["group:workspace"]


@pytest.mark.parametrize("skew_s", [-7.0, 7.0])
async def test_a_worker_whose_clock_is_off_is_waited_for(desk: Desk, skew_s: float) -> None:
    store = CounterStore(desk.side_client, "git")
    guards = {"work.read": {"state": "not_armed", "why": "warming up"}}
    begun = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()

    async def is_waited_for() -> bool:
        blob = {"worker": "gateway-0", "incarnation": "i", "at": time.time() + skew_s, "guards": guards}
        store.publish("gateway-0", blob)
        report = (await desk.ask("GET", f"/v1/drills/{begun['id']}")).json()
        return bool(report["why"] == "gateway-0: not_armed: warming up")

    await until_async(is_waited_for, "it is waited for")
    await store.aclose()


async def test_another_control_may_have_one_on(desk: Desk) -> None:
    store = DrillStore(desk.side_client, "git")
    await store.tell_time()
    now = store.clock.now()
    await store.begin(DrillOrder("other", Fault.DOWN, "alone", Ppm(0), now, now + 60))
    begun = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()
    report = await ended(desk, begun["id"])
    assert report["why"] == "another drill is on"
    # It is that drill's, and goes on.
    standing = (await store.order())[1]
    assert standing is not None
    assert standing.drill == "other"


async def test_what_another_control_runs_is_left_alone_and_can_be_ended(desk: Desk, tmp_path: Path) -> None:
    begun = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()
    (tmp_path / "second").mkdir()
    async with desk_on(desk.redis, tmp_path / "second") as second:
        await second.plane._drills.tidy(second.acts)
        report = (await second.ask("GET", f"/v1/drills/{begun['id']}")).json()
        assert report["phase"] != "ended"
        report = (await second.ask("DELETE", f"/v1/drills/{begun['id']}")).json()
        assert (report["phase"], report["restored"]) == ("ended", True)
        assert "ended by hand" in report["why"]
        assert (await second.status())["groups"]["workspace"]["stage"] == "off"


async def test_what_nobody_runs_any_more_is_put_back(desk: Desk) -> None:
    """Flips too: the share is given back, and the pins are gone."""
    await desk.go_live("workspace", percent=40)
    before = {"stage": None, "mirror": None, "shares": {"work.read": 400_000, "work.write": 400_000}, "pins": True}
    await desk.ask("PATCH", "/v1/groups/workspace", {"percent": 0, "reason": "a flip"})
    begun = (await desk.ask("POST", "/v1/drills", {**ERRORS, "load": 0})).json()
    report = (await desk.ask("DELETE", f"/v1/drills/{begun['id']}")).json()
    left = {**report, "id": "left", "phase": "flipping", "passed": None, "fault": "flips", "before": before}
    await DrillStore(desk.side_client, "git").keep(left)

    async def is_put_back() -> bool:
        found = (await desk.ask("GET", "/v1/drills/left")).json()
        return bool(found["phase"] == "ended")

    await until_async(is_put_back, "it is tidied")
    assert (await desk.status())["groups"]["workspace"]["percent"] == 40


async def test_a_drill_that_failed_or_is_overdue_is_told(desk: Desk) -> None:
    async def told(what: str | None) -> bool:
        notes = (await desk.status())["notes"]
        found = [note for note in notes if "drill" in note]
        metrics = (await desk.ask("GET", "/metrics", by=None)).text
        assert f"crossfade_drill_due {float(what is not None)}" in metrics or not found
        return any(what in note for note in found) if what else not found

    assert await told(None)
    desk.rewrite(migration(drills={"every": "7d"}))
    await desk.plane.reload()
    await until_async(lambda: told("no drill has passed yet"), "it is told", 30)
    begun = (await desk.ask("POST", "/v1/drills", {**ERRORS, "arm_s": 1, "load": 0})).json()
    await ended(desk, begun["id"])
    await until_async(lambda: told("no worker reports"), "it is told", 30)
    due: list[dict[str, Any]] = []

    async def are_audited() -> bool:
        items = (await desk.ask("GET", "/v1/audit")).json()["items"]
        due[:] = [entry for entry in items if entry["action"] == "drill_due"]
        return len(due) >= 2

    # Whoever notifies reads it in the audit: once each, not with every look.
    await until_async(are_audited, "both are in the audit")
    assert [(entry["outcome"], entry["target"]) for entry in due] == [("done", "git"), ("done", "git")]
    assert "no worker reports" in due[0]["reason"]
    assert "no drill has passed yet" in due[1]["reason"]


async def test_a_debt_is_told_once_over_a_restart_of_control(desk: Desk, tmp_path: Path) -> None:
    desk.rewrite(migration(drills={"every": "7d"}))
    await desk.plane.reload()

    async def told(by: Desk) -> list[Any]:
        items = (await by.ask("GET", "/v1/audit?limit=100")).json()["items"]
        return [entry for entry in items if entry["action"] == "drill_due"]

    await until_async(lambda: told(desk), "it is told")
    (tmp_path / "second").mkdir()
    async with desk_on(desk.redis, tmp_path / "second", migration(drills={"every": "7d"})) as second:

        async def is_known() -> bool:
            return any("no drill has passed" in note for note in (await second.status())["notes"])

        await until_async(is_known, "the second knows it")
        assert len(await told(second)) == 1
