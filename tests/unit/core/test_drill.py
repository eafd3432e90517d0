from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.classify import arguments_of
from gateway.core.drill import (
    DrillOrder,
    Fault,
    NoDrillRequestError,
    Sample,
    Times,
    WorkerNote,
    drill_debt,
    key_part,
    request_for,
    series_of,
    slow_delay_s,
    times_of,
)
from gateway.core.keys import KeyInputs, read_key
from gateway.core.model import Definition, Operation, Ppm
from gateway.settings import load_migration


def order(**changes: object) -> DrillOrder:
    content = {
        "drill": "d1",
        "fault": Fault.HANG,
        "operation": "a",
        "share": Ppm(0),
        "begins_at": 10.0,
        "ends_at": 20.0,
    }
    return DrillOrder(**{**content, **changes})  # type: ignore[arg-type]


def test_an_order_survives_its_way() -> None:
    assert DrillOrder.parse(json.dumps(order(share=Ppm(7)).document())) == order(share=Ppm(7))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"drill": "x", "fault": "none"}', b"\xff"])
def test_what_is_no_order_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        DrillOrder.parse(text)


def test_only_its_own_keys_are_touched() -> None:
    assert order().touches(key_part("d1", 3))
    assert order().touches(f"{key_part('d1', 3)}/{key_part('d1', 3)}")
    assert not order().touches(key_part("d2", 3))
    assert not order().touches("agent/task")
    assert not order(share=Ppm(1_000_000)).touches(None)


def test_a_share_of_all_keys() -> None:
    touched = sum(order(share=Ppm(250_000)).touches(f"key-{n}") for n in range(4000))
    assert 850 <= touched <= 1150
    assert all(order(share=Ppm(1_000_000)).touches(f"key-{n}") for n in range(50))


def test_it_is_on_for_its_time() -> None:
    assert [order().is_on(at) for at in (9.9, 10.0, 19.9, 20.0)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("p50", "limit", "wanted"), [(None, None, 1.0), (0.02, 0.05, 0.1), (0.1, 0.2, 0.4), (None, 0.3, 0.35)]
)
def test_slow_is_slower_than_allowed(p50: float | None, limit: float | None, wanted: float) -> None:
    assert slow_delay_s(p50, limit) == pytest.approx(wanted)


# --- requests ------------------------------------------------------------------------------------------------------


def definition(key: list[list[str]], match: dict[str, str], place: Path) -> tuple[Definition, Operation]:
    content = {
        "migration": "m",
        "mcp": {"path": "/mcp"},
        "sides": {"old": {"instances": ["http://127.0.0.1:9"]}, "new": {"instances": ["http://127.0.0.1:10"]}},
        "groups": {"g": {"writes": "none", "key": key}},
        "operations": {"op": {"class": "read", "group": "g", "match": match}},
    }
    file = place / "migration.yaml"
    file.write_text(json.dumps(content))
    found = load_migration(file).definition
    return found, found.operations["op"]


@pytest.mark.parametrize(
    ("key", "match", "path"),
    [
        ([["header:x-a", "header:x-b"]], {"rest": "POST /v1/op"}, "/v1/op"),
        ([["path:id"]], {"rest": "GET /items/{id}/parts"}, "/items/PART/parts"),
        ([["query:k"]], {"rest": "GET /find"}, "/find?k=PART"),
        ([["cookie:sid"]], {"rest": "GET /me"}, "/me"),
        ([["argument:user.id", "argument:user.team"]], {"rest": "POST /op"}, "/op"),
        ([["argument:user.id"], ["header:x-a"]], {"rest": "GET /op"}, "/op"),
        ([["client_address"], ["header:x-a"]], {"rest": "GET /op"}, "/op"),
        ([["argument:id"]], {"mcp": "op"}, "/mcp"),
    ],
)
def test_its_own_requests_have_the_key_that_they_say(
    tmp_path: Path, key: list[list[str]], match: dict[str, str], path: str
) -> None:
    whole, operation = definition(key, match, tmp_path)
    part = key_part("d1", 5)
    made = request_for(whole, operation, part)
    assert made.path == path.replace("PART", part)
    headers = [(name.encode(), value.encode()) for name, value in made.headers.items()]
    message = json.loads(made.body) if made.body else None
    inputs = KeyInputs(
        headers,
        {"id": part},
        made.path.partition("?")[2].encode(),
        "",
        arguments_of(message, is_mcp="mcp" in match) if message else None,
    )
    assert read_key(whole.groups["g"].recipes, inputs) == made.key
    assert order().touches(made.key)


def test_an_address_cannot_be_made_up(tmp_path: Path) -> None:
    with pytest.raises(NoDrillRequestError, match="op"):
        request_for(*definition([["client_address"]], {"rest": "GET /op"}, tmp_path), "p")


# --- times ---------------------------------------------------------------------------------------------------------


def test_times() -> None:
    notes = [WorkerNote("a", 100.0, 101.0, 100.9, 3), WorkerNote("b", 100.0, 101.1, 101.05, 3)]
    samples = [
        Sample(99.0, 99.1, "new", is_failed=True),
        Sample(100.2, 100.3, "new", is_failed=True),
        Sample(100.4, 101.5, "old", is_failed=False, is_late=True),
        Sample(101.6, 101.7, "old", is_failed=False),
    ]
    assert times_of(100.0, 100.8, notes, samples) == Times(0.8, 1.05, 1.5)


def test_a_worker_that_is_not_out_leaves_the_time_open() -> None:
    notes = [WorkerNote("a", 100.0, 101.0, 100.9, 3), WorkerNote("b", 100.0, None, 103.0, 9)]
    assert times_of(100.0, 100.8, notes, []).to_zero_s is None
    assert times_of(100.0, 100.8, [], []).to_zero_s is None
    assert times_of(100.0, None, notes, []) == Times()


DAY = 86_400.0
NOW = 1_800_000_000.0


def was(days_ago: float, *, passed: bool | None) -> dict[str, object]:
    at = datetime.fromtimestamp(NOW - days_ago * DAY, UTC).isoformat()
    return {"id": "d", "fault": "errors", "at": at, "passed": passed, "why": "it hung"}


@pytest.mark.parametrize(
    ("reports", "debt"),
    [
        ([], "no drill has passed yet"),
        ([was(0, passed=None)], "no drill has passed yet"),
        ([was(6.9, passed=True)], None),
        ([was(0, passed=None), was(6, passed=True)], None),
        ([was(8, passed=True)], "8.0 days old"),
        ([was(1, passed=False), was(2, passed=True)], "it hung"),
        ([was(1, passed=True), was(2, passed=False)], None),
    ],
)
def test_a_drill_is_due(reports: list[dict[str, object]], debt: str | None) -> None:
    found = drill_debt(reports, 7 * DAY, NOW)
    assert found is None if debt is None else found is not None and debt in found.said
    assert drill_debt(reports, None, NOW) is None


def test_a_debt_stays_the_same_one() -> None:
    """Though it is told in other words every day."""
    first, later = (drill_debt([was(8, passed=True)], 7 * DAY, NOW + days * DAY) for days in (0, 1))
    assert first is not None
    assert later is not None
    assert first.about == later.about
    assert first.said != later.said


@given(
    st.lists(
        st.builds(
            Sample,
            sent_at=st.floats(0, 200),
            ended_at=st.floats(0, 200),
            side=st.sampled_from(["old", "new", ""]),
            is_failed=st.booleans(),
        ),
        max_size=50,
    )
)
def test_a_series_counts_every_sample_once(samples: list[Sample]) -> None:
    series = series_of(100.0, samples)
    shown = [sample for sample in samples if sample.ended_at >= 95.0]
    assert sum(series.old) + sum(series.new) + sum(series.failed) == len(shown)
    assert len(series.old) == len(series.new) == len(series.failed)
