from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.drill import report_lines, report_plot, write_report
from gateway.cli.plot import Line, Mark, Plot
from gateway.cli.shown import CommandError

REPORT: dict[str, Any] = {
    "id": "ab12",
    "phase": "ended",
    "fault": "hang",
    "operation": "a <b>",
    "load": 100,
    "share_percent": 0,
    "by": "up",
    "reason": "r",
    "at": "2026-01-01T00:00:00Z",
    "passed": True,
    "why": None,
    "armed_after_s": 31.0,
    "times": {"to_trip_s": 1.1, "to_zero_s": 1.2, "to_recovery_s": None},
    "scope": "operation:a",
    "trip": "latency: …",
    "workers": [{"id": "gateway-0", "out_after_s": 1.15, "last_on_new_after_s": None, "faults": 3}],
    "requests": {"sent": 9, "failed": 1, "late": 2, "failed_before": 0},
    "restored": True,
    "series": {"slot_s": 0.25, "from_s": -0.5, "old": [1, 2, 3], "new": [3, 2, 0], "failed": [0, 1, 0]},
    "before": {"stage": None, "mirror": None},
}


def test_a_report_says_its_times() -> None:
    text = "\n".join(report_lines(REPORT))
    assert "drill ab12 passed: hang on a <b>" in text
    assert "fault -> trip   1.10 s" in text
    assert "fault -> good   -" in text
    assert "put back        all" in text


def test_a_failed_one_says_why() -> None:
    text = "\n".join(report_lines({**REPORT, "passed": False, "why": "nothing tripped", "restored": False}))
    assert "FAILED" in text
    assert "nothing tripped" in text
    assert "NOT all" in text


FLIP = {
    "at_s": 30.0,
    "to": "new",
    "lasted_s": 30.0,
    "late_s": 0.02,
    "calls": 300,
    "failed": 1,
    "p50_ms": 3.2,
    "p95_ms": 9.0,
    "max_ms": 120.0,
}
CHAOS = {
    **REPORT,
    "fault": "flips",
    "trip": None,
    "chaos": {
        "every_s": 30,
        "for_s": 300,
        "keys": 20,
        "writes": ["a.write"],
        "retried": 2,
        "failed": {"a.write 503": 1},
        "stuck": ["k1"],
        "locked": [],
        "flips": [{**FLIP, "at_s": 0.0, "to": "old", "late_s": None}, FLIP],
    },
}


def test_a_report_of_flips() -> None:
    text = "\n".join(report_lines(CHAOS))
    assert "flips           1, one every 30 s; 20 keys; writes: a.write" in text
    assert "failed calls    1 x a.write 503; 2 found another one under way first" in text
    assert "stuck keys      k1" in text
    assert "locks left      none" in text
    assert "30.0 s to new  300 calls, 1 failed, P50 3 ms, P95 9 ms, longest 120 ms" in text
    assert "fault ->" not in text
    plot = report_plot(CHAOS)
    assert plot is not None
    assert [mark.name for mark in plot.marks] == ["to old", "to new"]


def test_flips_that_never_began() -> None:
    assert "FAILED" in report_lines({**CHAOS, "chaos": None, "requests": None, "passed": False})[0]


def test_files(tmp_path: Path) -> None:
    write_report(tmp_path / "out", REPORT)
    assert json.loads((tmp_path / "out/report.json").read_text()) == REPORT
    assert (tmp_path / "out/report.txt").read_text().startswith("drill ab12 passed")
    assert ET.fromstring((tmp_path / "out/report.svg").read_text()).tag.endswith("svg")
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o600}


def test_a_place_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written"):
        write_report(tmp_path / "file", REPORT)


def test_no_load_no_plot() -> None:
    assert report_plot({**REPORT, "series": None}) is None


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), max_size=20),
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])),
)
def test_every_plot_is_a_picture(points: list[tuple[float, float]], name: str) -> None:
    picture = ET.fromstring(Plot(name, name, name, [Line(name, points)], [Mark(0.0, name)]).svg())
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 1


@given(st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=20))
def test_logarithmic_ones_too(points: list[tuple[float, float]]) -> None:
    assert "polyline" in Plot("t", "x", "y", [Line("l", points)], is_log=True).svg()
