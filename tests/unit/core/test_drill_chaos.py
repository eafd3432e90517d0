from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chaos import Chaos, Flip, Judged, calls_of, flip_rows, judge, most_common
from gateway.core.drill import NoDrillRequestError, Sample, drill_debt
from gateway.core.model import Definition, OperationClass, Side
from gateway.settings import load_migration


def problem(code: str, *, retryable: bool) -> bytes:
    return json.dumps({"code": code, "message": "m", "retryable": retryable}).encode()


def tool(code: str, *, retryable: bool) -> bytes:
    said = {"code": code, "message": "m", "retryable": retryable}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"isError": True, "structuredContent": said}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (None, b"", (Judged.FAILED, "no answer")),
        (200, b"{}", (Judged.GOOD, "200")),
        (404, problem("unknown_workspace", retryable=False), (Judged.GOOD, "unknown_workspace")),
        (409, problem("conflict", retryable=False), (Judged.GOOD, "conflict")),
        (409, problem("workspace_busy", retryable=True), (Judged.BUSY, "workspace_busy")),
        (429, problem("rate_limited", retryable=True), (Judged.BUSY, "rate_limited")),
        (503, problem("locks_unavailable", retryable=True), (Judged.FAILED, "locks_unavailable")),
        (502, b"<html>", (Judged.FAILED, "502")),
        (200, tool("workspace_busy", retryable=True), (Judged.BUSY, "workspace_busy")),
        (200, tool("not_found", retryable=False), (Judged.GOOD, "not_found")),
        (200, b"[1]", (Judged.GOOD, "200")),
        (200, b"\xff", (Judged.GOOD, "200")),
    ],
)
def test_what_an_answer_is_worth(status: int | None, body: bytes, wanted: tuple[Judged, str]) -> None:
    assert judge(status, body) == wanted


# --- calls ---------------------------------------------------------------------------------------------------------


def definition(place: Path, key: list[list[str]]) -> Definition:
    def operation(op_class: str, rest: str) -> dict[str, object]:
        return {"class": op_class, "group": "g", "match": {"rest": rest}}

    content = {
        "migration": "m",
        "sides": {"old": {"instances": ["http://127.0.0.1:9"]}, "new": {"instances": ["http://127.0.0.1:10"]}},
        "groups": {"g": {"writes": "none", "key": key}},
        "operations": {
            "read": operation("read", "GET /read"),
            "other": operation("read", "GET /other"),
            "write": operation("write", "POST /write"),
            "drop": operation("write", "DELETE /drop"),
        },
    }
    file = place / "migration.yaml"
    file.write_text(json.dumps(content))
    return load_migration(file).definition


def test_a_key_is_read_and_written(tmp_path: Path) -> None:
    whole = definition(tmp_path, [["header:x-key"]])
    calls = calls_of(whole, whole.operations["read"], "d1", 3)
    assert [call.operation.name for call in calls] == ["read", "write", "drop"]
    assert {call.request.key for call in calls} == {"crossfade-drill-d1-3"}
    assert calls[0].operation.op_class is OperationClass.READ


def test_writes_whose_key_cannot_be_made_up_are_left_out(tmp_path: Path) -> None:
    whole = definition(tmp_path, [["argument:k"]])
    names = [call.operation.name for call in calls_of(whole, whole.operations["write"], "d1", 0)]
    # A DELETE has no body to carry an argument in.
    assert names == ["write"]
    with pytest.raises(NoDrillRequestError):
        calls_of(whole, whole.operations["read"], "d1", 0)


# --- what came of it -----------------------------------------------------------------------------------------------


def call(sent_at: float, side: str, *, took: float = 0.01, is_failed: bool = False) -> Sample:
    return Sample(sent_at, sent_at + took, side, is_failed)


def test_what_each_flip_did() -> None:
    flips = [Flip(100.0, Side.OLD), Flip(130.0, Side.NEW), Flip(160.0, Side.OLD)]
    samples = [
        call(101.0, "old"),
        call(130.02, "old", took=0.1),
        call(130.1, "new", took=0.3),
        call(131.0, "", is_failed=True),
        call(160.5, "old"),
        call(190.0, "old"),
    ]
    first, second, third = flip_rows(flips, 190.0, samples)
    assert (first["at_s"], first["to"], first["calls"], first["late_s"]) == (0.0, "old", 1, None)
    assert (second["at_s"], second["lasted_s"], second["calls"], second["failed"]) == (30.0, 30.0, 3, 1)
    assert second["late_s"] == 0.02
    assert (second["p50_ms"], second["max_ms"]) == (100.0, 300.0)
    assert (third["calls"], third["p95_ms"]) == (1, 10.0)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=10),
    st.lists(st.tuples(st.floats(-10, 120), st.sampled_from(["old", "new", ""]), st.booleans()), max_size=50),
)
def test_a_call_counts_for_one_flip(times: list[float], sent: list[tuple[float, str, bool]]) -> None:
    flips = [Flip(at, Side.OLD if index % 2 else Side.NEW) for index, at in enumerate(sorted(times))]
    samples = [call(at, side, is_failed=is_failed) for at, side, is_failed in sent]
    rows = flip_rows(flips, 110.0, samples)
    assert len(rows) == len(flips)
    assert sum(row["calls"] for row in rows) == sum(flips[0].at <= at < 110.0 for at, _, _ in sent)


GOOD = Chaos(30, 300, 20, ["write"], 3, {}, [], [], [])


def test_what_was_not_proved_is_said() -> None:
    assert GOOD.why_failed is None
    assert replace(GOOD, failed={"write 503": 2}).why_failed == "calls failed: 2 x write 503"
    assert replace(GOOD, stuck=["k1", "k2"]).why_failed == "2 keys are stuck: k1, k2"
    assert "1 keys are locked" in str(replace(GOOD, locked=["k1"]).why_failed)


def test_the_kinds_seen_most_are_kept() -> None:
    assert most_common({"a": 1, "b": 3, "c": 2}, 2) == {"b": 3, "c": 2}


def test_flips_are_no_rehearsal() -> None:
    flips = {"id": "d", "fault": "flips", "at": "2026-01-01T00:00:00+00:00", "passed": True, "why": None}
    assert "no drill has passed yet" in str(drill_debt([flips], 1e12, 0.0))
