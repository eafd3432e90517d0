from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.support.control import Desk, Json
from tests.support.waiting import until_async

PATCH = "PATCH"
WORKSPACE = "/v1/groups/workspace"


async def test_a_share_moves_the_whole_group(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    answer = await desk.ask(PATCH, WORKSPACE, {"percent": 33.3333, "reason": "more"}, by="operator")
    content = answer.json()
    assert content["changed"] == {"percent": {"before": 10, "after": 33.3333}}
    assert (content["name"], content["stage"], content["percent"]) == ("workspace", "live", 33.3333)
    assert answer.headers["etag"] == f'"{content["epoch"]}"'
    status = await desk.status()
    assert status["epoch"] == content["epoch"]
    assert {status["operations"][name]["effective_percent"] for name in ("work.read", "work.write")} == {33.3333}


async def test_no_change_keeps_the_epoch(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    before = await desk.side_client.xlen("cf:git:audit")
    for body in ({"percent": 10, "reason": "again"}, {"percent": 10.0, "reason": "again"}, {"reason": "r"}, {}):
        answer = await desk.ask(PATCH, WORKSPACE, body)
        assert (answer.status_code, answer.json()["epoch"], answer.json()["changed"]) == (200, 2, {})
    assert await desk.side_client.xlen("cf:git:audit") == before


async def test_an_operation_answers_with_itself(desk: Desk) -> None:
    answer = await desk.ask(PATCH, "/v1/operations/store.read", {"mirror_percent": 5}, by="operator")
    content = answer.json()
    assert content["changed"] == {"mirror_percent": {"before": 0, "after": 5}}
    assert (content["name"], content["class"], content["group"]) == ("store.read", "read", "store")
    assert content["mirror_percent"] == 5


BAD_PERCENT = [b"-1", b"101", b'"abc"', b'"10"', b"33.33333", b"NaN", b"Infinity", b"-Infinity", b"true", b"null"]
BAD_PERCENT += [b"[]", b"{}", b"1e400", b"-0.0001", b"100.0001", b"1" * 5000, b"0.00001", b"1e-9", b"+1", b"010", b".5"]


@pytest.mark.parametrize("text", BAD_PERCENT, ids=lambda text: text[:12].decode())
@pytest.mark.parametrize("field", ["percent", "mirror_percent", "dual_percent"])
async def test_a_bad_percent_changes_nothing(desk: Desk, field: str, text: bytes) -> None:
    await desk.go_live("workspace", percent=10)
    content = b'{"%b": %b, "stage": "off", "reason": "r"}' % (field.encode(), text)
    answer = await desk.ask(PATCH, WORKSPACE, content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert (await desk.status())["groups"]["workspace"]["stage"] == "live"


@pytest.mark.parametrize("text", [b"0", b"-0", b"-0.0", b"100", b"1e1", b"33.3333", b"0.0001", b"1E+2", b"50.00000"])
async def test_every_way_to_write_a_percent_is_understood(desk: Desk, text: bytes) -> None:
    await desk.go_live("workspace", percent=10)
    answer = await desk.ask(PATCH, WORKSPACE, content=b'{"percent": %b, "reason": "r"}' % text)
    assert answer.status_code == 200, answer.text
    assert answer.json()["percent"] == float(text)


BAD_BODIES = {
    "empty": b"",
    "no json": b"{",
    "trailing": b'{"reason": "r"} {}',
    "array": b"[]",
    "text": b'"x"',
    "null": b"null",
    "not utf-8": b'{"reason": "\xff"}',
    "duplicate": b'{"percent": 1, "percent": 2, "reason": "r"}',
    "unknown": b'{"percent": 1, "reason": "r", "perecnt": 2}',
    "deep": b'{"reason": ' + b"[" * 200 + b"]" * 200 + b"}",
    "very deep": b'{"reason": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "stage": b'{"stage": "on", "reason": "r"}',
    "stage type": b'{"stage": 1, "reason": "r"}',
    "skip": b'{"stage": "live", "skip": "yes", "reason": "r"}',
    "skip number": b'{"stage": "live", "skip": 1, "reason": "r"}',
    "no reason": b'{"percent": 1}',
    "no reason for a stage": b'{"stage": "off"}',
    "empty reason": b'{"percent": 1, "reason": " "}',
    "long reason": b'{"percent": 1, "reason": "' + b"a" * 501 + b'"}',
    "reason type": b'{"percent": 1, "reason": 5}',
    "too large": b'{"percent": 1, "reason": "' + b"a" * 300_000 + b'"}',
}


@pytest.mark.parametrize("content", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_cannot_be_meant_changes_nothing(desk: Desk, content: bytes) -> None:
    await desk.go_live("workspace", percent=10)
    answer = await desk.ask(PATCH, WORKSPACE, content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert answer.json()["detail"]
    status = await desk.status()
    assert (status["epoch"], status["groups"]["workspace"]["percent"]) == (2, 10)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_only_json_is_read(desk: Desk, media_type: str) -> None:
    body = b'{"scope": "all", "reason": "r"}'
    answer = await desk.ask("POST", "/v1/kills", content=body, headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
    assert (await desk.status())["kills"] == []


async def test_all_that_is_wrong_is_said_at_once(desk: Desk) -> None:
    answer = await desk.ask(PATCH, WORKSPACE, {"percent": 33.33333, "stage": "on", "foo": 1, "reason": "r"})
    errors = answer.json()["errors"]
    assert len(errors) == 3
    assert "percent: 33.33333 has more than 4 decimals; write 33.3333" in errors
    assert "foo: is not known here" in errors


async def test_a_reason_of_500_characters_is_taken(desk: Desk) -> None:
    await desk.go_live("workspace")
    answer = await desk.ask(PATCH, WORKSPACE, {"percent": 1, "reason": "ä" * 500})
    assert answer.status_code == 200


async def test_a_stale_epoch_is_refused_with_the_current_one(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    body = {"percent": 20, "reason": "r"}
    stale = await desk.ask(PATCH, WORKSPACE, body, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["code"], stale.json()["current"]) == (409, "stale_epoch", 2)
    fresh = await desk.ask(PATCH, WORKSPACE, body, headers={"If-Match": '"2"'})
    assert (fresh.status_code, fresh.json()["epoch"]) == (200, 3)


async def test_a_stale_epoch_is_refused_even_where_nothing_would_change(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    body = {"percent": 10, "reason": "r"}
    assert (await desk.ask(PATCH, WORKSPACE, body, headers={"If-Match": '"1"'})).status_code == 409


@pytest.mark.parametrize("value", ["2", 'W/"2"', '"2', '"x"', '"-1"', '"1", "2"', '"' + "9" * 40 + '"'])
async def test_an_epoch_that_is_none_is_refused(desk: Desk, value: str) -> None:
    answer = await desk.ask(PATCH, WORKSPACE, {"mirror_percent": 1}, headers={"If-Match": value})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


async def test_of_changes_at_one_epoch_one_is_made(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    bodies = [{"percent": 20 + n, "reason": f"r{n}"} for n in range(8)]
    answers = await asyncio.gather(*(desk.ask(PATCH, WORKSPACE, body, headers={"If-Match": '"2"'}) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    made = next(answer.json() for answer in answers if answer.status_code == 200)
    assert (await desk.status())["groups"]["workspace"]["percent"] == made["percent"]


async def test_changes_of_different_things_at_once_are_all_made(desk: Desk) -> None:
    await desk.go_live("workspace", "store", "ledger", percent=10)
    paths = [WORKSPACE, "/v1/groups/store", "/v1/groups/ledger"]
    answers = await asyncio.gather(*(desk.ask(PATCH, path, {"percent": 30, "reason": "r"}) for path in paths))
    assert [answer.status_code for answer in answers] == [200] * 3
    status = await desk.status()
    assert status["epoch"] == 7
    assert {group["percent"] for group in status["groups"].values()} == {30}


async def refused(desk: Desk, path: str, body: dict[str, Any]) -> tuple[int, str, Any]:
    before = await desk.side_client.hgetall("cf:git:policy")
    answer = await desk.ask(PATCH, path, body)
    assert await desk.side_client.hgetall("cf:git:policy") == before
    content = answer.json()
    return answer.status_code, content["code"], content.get("legal")


async def test_a_bound_operation_names_the_command_for_its_group(desk: Desk) -> None:
    await desk.go_live("workspace", percent=10)
    found = await refused(desk, "/v1/operations/work.read", {"percent": 20, "reason": "r"})
    assert found == (422, "group_share", "crossfade share workspace 20 --reason …")


async def test_a_share_outside_live_names_the_way_there(desk: Desk) -> None:
    found = await refused(desk, WORKSPACE, {"percent": 20, "reason": "r"})
    assert found == (422, "stage_has_no_share", "crossfade stage workspace live --reason …")


@pytest.mark.parametrize("stage", ["rampdown", "complete"])
async def test_a_stage_of_a_later_version_is_not_yet_available(desk: Desk, stage: str) -> None:
    await desk.go_live("store")
    status, code, _ = await refused(desk, "/v1/groups/store", {"stage": stage, "reason": "r", "skip": True})
    assert (status, code) == (501, "not_yet_available")


async def test_a_stage_that_the_group_never_has_is_a_rule_violation(desk: Desk) -> None:
    status, code, legal = await refused(desk, WORKSPACE, {"stage": "dual_write", "reason": "r"})
    assert (status, code) == (422, "rule_violation")
    assert legal == "crossfade stage workspace live --reason …"


async def test_only_reads_are_mirrored(desk: Desk) -> None:
    status, code, _ = await refused(desk, "/v1/operations/store.write", {"mirror_percent": 5})
    assert (status, code) == (422, "rule_violation")


async def test_a_killed_group_goes_forward_only_after_a_re_arm(desk: Desk) -> None:
    await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "r"})
    status, code, legal = await refused(desk, WORKSPACE, {"stage": "live", "reason": "r"})
    assert (status, code, legal) == (422, "rule_violation", "crossfade rearm group:workspace --reason …")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/operations/nothing", "unknown_operation"),
        ("/v1/operations/workspace", "unknown_operation"),
        ("/v1/groups/nothing", "unknown_group"),
        ("/v1/groups/work.read", "unknown_group"),
        ("/v1/groups/alone", "unknown_group"),
        ("/v1/operations/%00", "unknown_operation"),
    ],
)
async def test_what_does_not_exist_cannot_be_changed(desk: Desk, path: str, code: str) -> None:
    assert (await refused(desk, path, {"percent": 1, "reason": "r"}))[:2] == (404, code)


async def test_a_dual_group_in_live_says_that_it_is_unprotected(desk: Desk) -> None:
    await desk.go_live("ledger")
    status = await desk.status()
    assert status["groups"]["ledger"]["unprotected"] is True
    assert status["groups"]["workspace"]["unprotected"] is False


async def test_while_a_detector_holds_only_an_approver_that_says_skip_raises_a_share(desk: Desk) -> None:
    await desk.go_live("store", percent=5)

    async def say(state: str) -> None:
        guard = {"state": state, "why": "errors: evidence 62 %", "evidence_percent": 62.0}
        blob = {"worker": "gateway-0", "incarnation": "1", "at": time.time(), "guards": {"store.read": guard}}
        await desk.side_client.hset("cf:git:counters", "gateway-0", json.dumps(blob))

    async def is_held() -> bool:
        await say("hold")
        return bool((await desk.status())["operations"]["store.read"]["detector"] == "hold")

    await until_async(is_held, "it holds")
    more: Json = {"percent": 50, "reason": "more"}
    answer = await desk.ask("PATCH", "/v1/operations/store.read", more)
    assert (answer.status_code, answer.json()["rule"]) == (422, "detector_hold")
    assert answer.json()["legal"] == "crossfade share store.read 50 --skip --reason …"
    await say("hold")
    assert (await desk.ask("PATCH", "/v1/operations/store.write", more)).status_code == 200
    assert (await desk.ask("PATCH", "/v1/operations/store.read", {**more, "percent": 1})).status_code == 200
    await say("hold")
    answer = await desk.ask("PATCH", "/v1/operations/store.read", {**more, "skip": True}, by="operator")
    assert answer.status_code == 403
    answer = await desk.ask("PATCH", "/v1/operations/store.read", {**more, "skip": True})
    assert answer.status_code == 200
    assert answer.json()["changed"]["detector_hold"] == {"before": "store.read: errors: evidence 62 %", "after": "skip"}
    (entry, *_) = (await desk.ask("GET", "/v1/audit", by="viewer")).json()["items"]
    assert entry["changed"]["detector_hold"] == ["store.read: errors: evidence 62 %", "skip"]
