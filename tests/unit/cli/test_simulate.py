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


@pytest.mark.parametrize("options", [("--threshold", "0"), ("--threshold", "100"), ("--days", "1000"), ("--rate", "0")])
def test_what_cannot_be_simulated_is_refused(options: tuple[str, str]) -> None:
    assert simulate(*options).returncode in (1, 2)
