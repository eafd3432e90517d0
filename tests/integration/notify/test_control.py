"""Control tells what happens, over its own restarts and a Redis that restarts, and shows no URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.control import Desk, desk_on, migration
from tests.support.raw_upstream import Peer, RawUpstream, answer
from tests.support.redis_process import running_redis
from tests.support.waiting import until, until_async

KILL = {"scope": "group:store", "reason": "it burns"}


class Target:
    """A webhook that keeps what it took."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.response = answer(b"")
        self.asked = 0

    async def script(self, peer: Peer) -> None:
        request = await peer.receive_request()
        self.asked += 1
        if self.response.startswith(b"HTTP/1.1 200"):
            self.taken.append(json.loads(request.body))
        await peer.send(self.response)

    def kinds(self) -> list[str]:
        return [notice["kind"] for notice in self.taken]


def told(tmp_path: Path, server: RawUpstream, **more: Any) -> dict[str, Any]:
    url = tmp_path / "url"
    url.write_text(f"http://127.0.0.1:{server.port}/canary")
    url.chmod(0o600)
    return migration(notifications=[{"webhook": {"url_file": str(url)}, **more}])


async def notified(desk: Desk) -> bool:
    return bool([key async for key in desk.side_client.scan_iter(match="cf:git:notified:*")])


async def test_kills_and_rearms_are_told_over_a_restart_of_control(tmp_path: Path) -> None:
    target = Target()
    with running_redis() as redis:
        async with RawUpstream(target.script) as server:
            content = told(tmp_path, server)
            async with desk_on(redis, tmp_path, content) as desk:
                await until_async(lambda: notified(desk), "it has its place")
                assert (await desk.ask("POST", "/v1/kills", KILL)).status_code == 200
                await until(lambda: target.kinds() == ["kill"])
                status = json.dumps(await desk.status())
            assert "canary" not in status
            content["notifications"] = []
            async with desk_on(redis, tmp_path, content) as desk:
                body = {"reason": "it is well again"}
                assert (await desk.ask("DELETE", "/v1/kills/group:store", body)).status_code == 200
                refused = await desk.ask("POST", "/v1/notifications", {"reason": "r"})
                assert (refused.status_code, refused.json()["rule"]) == (422, "no_notifications")
            async with desk_on(redis, tmp_path, told(tmp_path, server)) as desk:
                await until(lambda: target.kinds() == ["kill", "rearm"])
                assert (await desk.ask("POST", "/v1/notifications", {"reason": "do you hear"})).status_code == 202
                await until(lambda: target.kinds() == ["kill", "rearm", "test"])

                async def are_counted() -> bool:
                    metrics = (await desk.ask("GET", "/metrics", by=None)).text
                    return 'crossfade_notifications_total{result="delivered",target="webhook"} 2.0' in metrics

                await until_async(are_counted, "the answers of the target are in, too")
    assert (target.taken[0]["target"], target.taken[0]["reason"]) == ("group:store", "it burns")


async def test_a_target_that_fails_is_said_and_nobody_waits_for_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = Target()
    target.response = answer(b"", status=b"503 x")
    with running_redis() as redis:
        async with (
            RawUpstream(target.script) as server,
            desk_on(redis, tmp_path, told(tmp_path, server, events=["kill"])) as desk,
        ):
            await until_async(lambda: notified(desk), "it has its place")
            assert (await desk.ask("POST", "/v1/kills", KILL)).status_code == 200
            await until(lambda: target.asked > 0)

            async def is_said() -> bool:
                notes: list[str] = (await desk.status())["notes"]
                return any("notifications do not arrive" in note and "503" in note for note in notes)

            await until_async(is_said)
            target.response = answer(b"")
            await until(lambda: target.kinds() == ["kill"])
    assert "canary" not in "".join(capfd.readouterr())
