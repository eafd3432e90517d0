"""The page on detectors says what was measured, the measurements can be repeated, and they hold what is promised."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.detectors import Cell, cells, measure, report

ROOT = Path(__file__).parents[2]
PAGES = ("detectors.md", "detectors-time.svg", "detectors-outage.svg", "detectors-false.svg", "detectors-rates.svg")


def stored() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "bench/results/detectors.json").read_text())["cells"]
    return found


def plot(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "plot_detectors", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for page in PAGES:
        shutil.copy(ROOT / "docs" / page, tmp_path)
    return tmp_path


def test_tables_and_pictures_are_what_was_measured() -> None:
    done = plot("--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "before", "after"), [(PAGES[0], "0 trips", "9 trips"), (PAGES[1], "polyline", "line")]
)
def test_what_drifted_is_told_with_the_difference_and_mended(copy: Path, page: str, before: str, after: str) -> None:
    good = (copy / page).read_text()
    assert before in good
    (copy / page).write_text(good.replace(before, after))
    told = plot("--check", "--docs", copy)
    assert told.returncode == 1
    assert after in told.stdout
    assert plot("--docs", copy).returncode == 0
    assert (copy / page).read_text() == good


def test_a_page_without_its_marks_is_refused(copy: Path) -> None:
    page = copy / PAGES[0]
    page.write_text(page.read_text().replace("plot_detectors, cost", "nobody"))
    assert "lacks the marks" in plot("--docs", copy).stderr


@pytest.mark.parametrize(
    "cell",
    [
        Cell("breach", "errors", 100, 0.5, 5),
        Cell("breach", "consistency", 10, 0.1, 3),
        Cell("breach", "errors", 10, 0.5, 3, "flagger-like, one look"),
        Cell("health", "errors", 1, 0.01, 1),
        Cell("slow", "latency", 10, 5, 2, sigma=0.5),
    ],
)
def test_a_measurement_gives_the_same_numbers_again(cell: Cell) -> None:
    found = measure(cell)
    assert measure(cell) == found
    assert found.items() >= asdict(cell).items()
    (line,) = report([found])
    assert ("0 false trips" in line) if cell.kind == "health" else (f"of {cell.amount} tripped" in line)


def test_everything_that_is_measured_is_stored() -> None:
    measured = [{name: found[name] for name in asdict(Cell("", "", 0, 0, 0))} for found in stored()]
    assert measured == [asdict(cell) for cell in cells(is_short=False)]


def test_healthy_traffic_never_tripped_in_200_days() -> None:
    health = [found for found in stored() if found["kind"] == "health" and found["rule"] == "crossfade"]
    days: Counter[tuple[str, float]] = Counter()
    for found in health:
        days[found["signal"], found["per_s"]] += found["amount"]
    assert all(days[signal, per_s] == 200 for signal in ("errors", "latency") for per_s in (1, 10, 100))
    assert all(found["trips"] == 0 for found in health)


def test_a_slowdown_of_both_sides_tripped_at_most_once_in_a_hundred() -> None:
    common = [found for found in stored() if found["kind"] == "common" and found["is_confirming"]]
    assert sum(found["trips"] for found in common) <= sum(found["amount"] for found in common) / 100


def test_one_detector_alone_is_as_quick_as_it_was_designed_to_be() -> None:
    """Medians of 100 breaches: their own spread is a fifth and more. Three ticks are the least, whatever comes."""
    alone = [found for found in stored() if found["detectors"] == 1 and found["kind"] == "breach"]
    for line in report([found for found in alone if found["median_s"] > 0.75]):
        if "ratio" in line:
            assert 0.5 <= float(line.rpartition("ratio ")[2]) <= 2, line
