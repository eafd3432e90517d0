"""Drills on a real `crossfade up`, by the command line; and what is left when control dies in the middle of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.support.up import ROOT, Up, crossfade, is_alive, running_up
from tests.support.waiting import until, until_async


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


async def test_a_drill_passes_on_a_bare_machine_and_leaves_nothing(tmp_path: Path) -> None:
    async with running_up(tmp_path / "data", None) as up:
        before = (await ask(up, "/v1/status"))["groups"]
        running = drill(up, tmp_path / "printed", "--fault", "hang", "--out", str(tmp_path / "report"))
        await until(lambda: running.poll() is not None, "the drill ends", 240)
        report = json.loads((tmp_path / "printed").read_text())
        assert running.returncode == 0, report
        assert report["passed"]
        assert report["restored"]
        assert report["scope"] == "operation:git.status"
        assert {worker["id"] for worker in report["workers"]} == {"gateway-0", "gateway-1"}
        assert report["times"]["to_zero_s"] is not None
        assert report["requests"]["failed"] == 0
        assert report["requests"]["failed_before"] == 0
        assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.txt", "report.json", "report.svg"}
        status = await ask(up, "/v1/status")
        assert status["groups"] == before
        assert status["kills"] == []


async def test_what_a_drill_left_behind_is_put_back(tmp_path: Path) -> None:
    async with running_up(tmp_path / "data", None) as up:
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
