"""`crossfade simulate` says what the detectors do."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "gateway.cli.main", "simulate", "--days", "0.01", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def document(*options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(simulate("--json", "--runs", "5", *options).stdout)
    return found


def test_an_outage_trips_at_once_and_health_never() -> None:
    found = document("--rate", "100", "--broken", "100")
    assert (found["tripped"], found["median_s"], found["false_trips"]) == (5, 0.75, 0)
    assert document("--rate", "100", "--broken", "100") == found


def test_what_is_allowed_does_not_trip() -> None:
    found = document("--rate", "0.1", "--broken", "2", "--threshold", "20")
    assert (found["tripped"], found["median_s"]) == (0, None)


@pytest.mark.parametrize("signal", ["errors", "latency", "consistency"])
def test_every_signal(signal: str) -> None:
    assert document("--signal", signal, "--broken", "90")["tripped"] == 5


def test_more_operations_ask_for_more() -> None:
    one, many = document(), document("--operations", "17")
    assert (one["operations"], one["detectors"], many["detectors"]) == (1, 6, 54)
    assert round(one["evidence_needed"], 1) == 19.5
    assert round(many["evidence_needed"], 1) == 21.7
    assert "54 detectors: 21.7 nats trip" in simulate("--operations", "17", "--runs", "1").stdout


def test_the_literal_window() -> None:
    found = document(
        "--profile", "window", "--rate", "100", "--broken", "20", "--min-samples", "1000", "--window-s", "20"
    )
    assert (found["tripped"], found["evidence_needed"]) == (5, None)
    assert 3 <= found["median_s"] <= 20


def test_slowness_is_simulated_request_by_request_and_of_both_sides_is_nobodys_fault() -> None:
    found = document("--signal", "latency", "--rate", "20", "--ratio", "5", "--sigma", "0.5")
    assert found["tripped"] == 5
    assert found["median_s"] < 5
    both = ("--signal", "latency", "--rate", "2", "--ratio", "10", "--old-ratio", "10")
    assert "none of 2 breaches tripped within 1800 s" in simulate("--runs", "2", *both).stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--threshold", "0"),
        ("--threshold", "100"),
        ("--signal", "latency", "--threshold", "3"),
        ("--ratio", "5"),
        ("--signal", "latency", "--old-ratio", "5"),
        ("--signal", "latency", "--ratio", "5", "--profile", "window"),
        ("--signal", "latency", "--ratio", "5", "--rate", "1000"),
        ("--profile", "window", "--min-samples", "20"),
        ("--days", "1000"),
        ("--rate", "0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options: tuple[str, ...]) -> None:
    assert simulate(*options).returncode in (1, 2)
