"""Drills on a real `crossfade up`, by the command line; and what is left when control dies in the middle of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.parts import Parts
from gateway.state.connect import connect
from tests.support.up import ROOT, Up, crossfade, is_alive, running_up
from tests.support.waiting import until, until_async

FLIP_EVERY_S = os.environ.get("CROSSFADE_TEST_FLIP_EVERY", "2")
FLIP_FOR_S = os.environ.get("CROSSFADE_TEST_FLIP_FOR", "8")
P95_RATIO = os.environ.get("CROSSFADE_TEST_P95_RATIO", "20")
"""Other tests run on this machine: at the shipped 2.0 a side that has no time left trips for real, and so it should."""
LOAD = os.environ.get("CROSSFADE_TEST_LOAD", "40")
FAULTS = os.environ.get("CROSSFADE_TEST_FAULTS", "hang mismatch")
"""All five are a part of `make torture`: each waits half a minute until the detectors are warm."""


def shipped(place: Path, writes: str = "none") -> Path:
    """The migration that comes with the project."""
    text = (ROOT / "config/migration.yaml").read_text()
    for before, after in (("p95_ratio: 2.0", f"p95_ratio: {P95_RATIO}"), ("writes: none", f"writes: {writes}")):
        assert before in text
        text = text.replace(before, after)
    file = place / "migration.yaml"
    file.write_text(text)
    return file


def drill(up: Up, printed: Path, *options: str) -> subprocess.Popen[bytes]:
    with printed.open("wb") as stdout:
        return subprocess.Popen(
            [*crossfade(), "drill", "--data-dir", str(up.data_dir), "--json", *options],
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )


async def ask(up: Up, path: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=up.runtime["control"], timeout=30, trust_env=False) as client:
        answer = await client.get(path, headers={"Authorization": f"Bearer {up.token}"})
        content: dict[str, Any] = answer.json()
        return content


async def passed(up: Up, place: Path, fault: str, *options: str) -> dict[str, Any]:
    """The report of a drill that ran to its end, and passed."""
    options = ("--load", LOAD, "--out", str(place / f"{fault}.report"), *options)
    running = drill(up, place / fault, "--fault", fault, *options)
    await until(lambda: running.poll() is not None, f"drill {fault} ends", 300)
    report: dict[str, Any] = json.loads((place / fault).read_text())
    assert running.returncode == 0, report
    assert report["passed"]
    assert report["restored"]
    assert {worker["id"] for worker in report["workers"]} == {"gateway-0", "gateway-1"}
    assert report["times"]["to_zero_s"] is not None
    assert report["requests"]["failed_before"] == 0
    return report


@pytest.mark.parametrize("faults", [FAULTS])
async def test_drills_pass_on_a_bare_machine_and_leave_nothing(tmp_path: Path, faults: str) -> None:
    """One after the other on the same machine: each finds what the one before has left."""
    async with running_up(tmp_path / "data", shipped(tmp_path)) as up:
        before = (await ask(up, "/v1/status"))["groups"]
        for fault in faults.split():
            report = await passed(up, tmp_path, fault)
            assert report["scope"] == "operation:git.status"
            # In this group old does not know what new was told: only who hangs is asked of old, once new is out.
            assert (report["requests"]["failed"] == 0) == (fault not in ("errors", "down"))
            files = {file.name for file in (tmp_path / f"{fault}.report").iterdir()}
            assert files == {"report.txt", "report.json", "report.svg"}
            status = await ask(up, "/v1/status")
            assert status["groups"] == before
            assert status["kills"] == []
            # A drill compares a lot, and says nothing of how the sides agree.
            comparisons = [operation["comparisons"] for operation in status["operations"].values()]
            assert not any(counts["match"] or counts["mismatch"] for counts in comparisons)


async def test_no_client_sees_a_failed_read_where_both_sides_share_a_store(tmp_path: Path) -> None:
    async with running_up(tmp_path / "data", shipped(tmp_path, "shared")) as up:
        report = await passed(up, tmp_path, "errors")
        assert report["requests"]["failed"] == 0
        assert sum(worker["faults"] for worker in report["workers"]) > 0


async def test_flips_fail_no_call_and_leave_no_lock(tmp_path: Path) -> None:
    async with running_up(tmp_path / "data", shipped(tmp_path)) as up:
        before = (await ask(up, "/v1/status"))["groups"]
        options = ("--chaos", "--every", FLIP_EVERY_S, "--for", FLIP_FOR_S, "--out", str(tmp_path / "report"))
        running = drill(up, tmp_path / "printed", *options)
        await until(lambda: running.poll() is not None, "the drill ends", 60 + 3 * int(FLIP_FOR_S))
        report = json.loads((tmp_path / "printed").read_text())
        assert running.returncode == 0, report["why"]
        chaos = report["chaos"]
        assert (chaos["failed"], chaos["stuck"], chaos["locked"]) == ({}, [], [])
        assert {row["to"] for row in chaos["flips"]} == {"old", "new"}
        assert "git.pull" in chaos["writes"]
        assert all(row["calls"] for row in chaos["flips"])
        assert "flips" in (tmp_path / "report/report.txt").read_text()
        assert (await ask(up, "/v1/status"))["groups"] == before
        # Locks of the new service, by the names it gives them.
        parts = Parts.read(up.data_dir / "parts.json")
        assert parts.redis_password_file is not None
        redis = connect(parts.redis_url, Path(parts.redis_password_file))
        assert [key async for key in redis.scan_iter("cf:lock:*")] == []
        await redis.aclose()


async def test_what_a_drill_left_behind_is_put_back(tmp_path: Path) -> None:
    async with running_up(tmp_path / "data", shipped(tmp_path)) as up:
        running = drill(up, tmp_path / "printed", "--fault", "errors")
        try:

            async def is_live() -> bool:
                return bool((await ask(up, "/v1/status"))["groups"]["workspace"]["stage"] == "live")

            await until_async(is_live, "the drill has moved it", 60)
            pid = up.pids["control"]
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not is_alive(pid) and up.pids.get("control") not in (None, pid), "it is back", 60)

            async def is_tidied() -> bool:
                try:
                    items = (await ask(up, "/v1/drills"))["items"]
                except httpx.HTTPError:
                    return False
                return bool(items and items[0]["phase"] == "ended")

            await until_async(is_tidied, "the drill is ended", 60)
            (report,) = (await ask(up, "/v1/drills"))["items"]
            assert report["why"] == "control ended in the middle of it"
            assert report["restored"]
            assert (await ask(up, "/v1/status"))["groups"]["workspace"]["stage"] == "off"
        finally:
            running.kill()
            running.wait()
