"""Flips as control carries them out, in front of a data port that decides as a worker does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.core.decide import decide
from gateway.core.model import Side
from gateway.state.counters import CounterStore
from tests.support.control import Desk
from tests.support.raw_upstream import Peer, RawUpstream
from tests.support.waiting import until, until_async

FLIPS = {"fault": "flips", "reason": "test", "operation": "work.read", "every_s": 1, "for_s": 3, "load": 50}
ARMED = {"work.read": {"state": "armed", "why": None, "evidence_percent": 0.0}}
BUSY = b'{"code": "workspace_busy", "message": "m", "retryable": true}'


@dataclass
class DataPort:
    """Answers as a worker would that decides by what control has in force.

    Attributes:
        desk: Whose policy it goes by.
        side_of: Overrides who it says has answered.
        status_of: Overrides the status, by operation and key.
        asked: Operation, key and side of each request.
    """

    desk: Desk
    side_of: Callable[[str, Side], Side] = lambda _, side: side
    status_of: Callable[[str, str], tuple[int, bytes]] = lambda _, __: (200, b"{}")
    asked: list[tuple[str, str, Side]] = field(default_factory=list)

    async def serve(self, peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            operation = request.line.split()[1].decode().lstrip("/")
            key = next(f.partition(b":")[2].strip().decode() for f in request.fields if f.lower().startswith(b"x-key:"))
            snapshot = self.desk.plane.state.feed.current
            assert snapshot is not None
            side = self.side_of(key, decide(snapshot.plans[operation], key).side)
            self.asked.append((operation, key, side))
            status, body = self.status_of(operation, key)
            head = f"HTTP/1.1 {status} x\r\ncrossfade-side: {side}\r\ncontent-length: {len(body)}\r\n\r\n"
            await peer.send(head.encode() + body)


@asynccontextmanager
async def data_port(desk: Desk, **overrides: Any) -> AsyncIterator[DataPort]:
    """A data port, and a worker that reports it and decides by the newest policy."""
    port = DataPort(desk, **overrides)
    store = CounterStore(desk.side_client, "git")
    async with RawUpstream(port.serve) as server:

        async def report() -> None:
            while True:
                current = desk.plane.state.feed.current
                epoch = current.epoch if current is not None else 0
                blob = {"worker": "gateway-0", "incarnation": "i", "at": time.time(), "epoch": epoch, "guards": ARMED}
                store.publish("gateway-0", {**blob, "address": f"http://127.0.0.1:{server.port}"})
                await asyncio.sleep(0.05)

        async def is_known() -> bool:
            return bool((await desk.status())["workers"])

        reporting = asyncio.create_task(report())
        try:
            await until_async(is_known, "the worker is known")
            yield port
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await store.aclose()


async def begun(desk: Desk, **changes: Any) -> dict[str, Any]:
    answer = await desk.ask("POST", "/v1/drills", {**FLIPS, **changes})
    assert answer.status_code == 202, answer.text
    report: dict[str, Any] = answer.json()
    return report


async def ended(desk: Desk, report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def is_over() -> bool:
        nonlocal found
        found = (await desk.ask("GET", f"/v1/drills/{report['id']}", by="viewer")).json()
        return bool(found["phase"] == "ended")

    await until_async(is_over, "the drill ends", 60)
    return found


async def flips_of(desk: Desk) -> list[dict[str, Any]]:
    entries = (await desk.ask("GET", "/v1/audit?limit=100")).json()["items"]
    return [entry["changed"] for entry in reversed(entries) if entry["action"] == "flip"]


async def test_a_share_goes_to_and_fro_and_is_put_back(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)
    async with data_port(desk) as port:
        report = await ended(desk, await begun(desk))
    assert report["passed"], report["why"]
    assert report["restored"]
    chaos = report["chaos"]
    assert [row["to"] for row in chaos["flips"]] == ["new", "old", "new"]
    assert (chaos["keys"], chaos["writes"], chaos["stuck"], chaos["locked"]) == (20, ["work.write"], [], [])
    assert report["requests"]["failed"] == 0
    assert {operation for operation, _, _ in port.asked} == {"work.read", "work.write"}
    assert {side for _, _, side in port.asked} == {Side.OLD, Side.NEW}
    assert (await desk.status())["groups"]["workspace"]["percent"] == 40
    # Never more of clients' keys on new than there were.
    moved = {tuple(delta) for changed in await flips_of(desk) for delta in changed.values()}
    assert moved == {(40, 0), (0, 40)}


async def test_what_is_not_live_flips_the_drills_own_keys_alone(desk: Desk) -> None:
    async with data_port(desk) as port:
        report = await ended(desk, await begun(desk))
    assert report["passed"], report["why"]
    assert [row["to"] for row in report["chaos"]["flips"]] == ["old", "new", "old"]
    assert {key.startswith("crossfade-drill-") for _, key, _ in port.asked} == {True}
    assert {side for _, _, side in port.asked} == {Side.OLD, Side.NEW}
    policy = await desk.plane.state.store.read()
    assert policy is not None
    assert policy.groups["workspace"].allow == frozenset()
    assert (await desk.status())["groups"]["workspace"]["stage"] == "off"


async def test_an_operation_alone_has_a_flag_of_its_own(desk: Desk) -> None:
    async with data_port(desk):
        report = await ended(desk, await begun(desk, operation="alone"))
    assert report["passed"], report["why"]
    assert report["chaos"]["writes"] == []


async def test_a_key_that_stays_where_it_was_is_stuck(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)
    async with data_port(desk, side_of=lambda key, side: Side.NEW if key.endswith("1") else side):
        report = await ended(desk, await begun(desk))
    assert not report["passed"]
    assert "keys are stuck" in report["why"]
    assert "belongs to old" in report["chaos"]["stuck"][0]
    assert report["chaos"]["locked"] == []
    assert (await desk.status())["groups"]["workspace"]["percent"] == 40


async def test_a_lock_that_was_left_behind(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)

    def status(operation: str, _: str) -> tuple[int, bytes]:
        return (409, BUSY) if operation == "work.write" else (200, b"{}")

    async with data_port(desk, status_of=status):
        report = await ended(desk, await begun(desk))
    assert "keys are locked" in report["why"]
    assert "calls failed" in report["why"]
    assert "workspace_busy" in report["chaos"]["locked"][0]
    assert report["chaos"]["retried"] > 0


async def test_a_call_that_fails(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)
    async with data_port(desk, status_of=lambda _, key: (503 if key.endswith("2") else 200, b"{}")):
        report = await ended(desk, await begun(desk))
    assert "x work.read 503" in report["why"]


async def test_what_somebody_has_moved_meanwhile_stays(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)
    async with data_port(desk) as port:
        report = await begun(desk)
        await until(lambda: port.asked, "it sends")
        await desk.ask("PATCH", "/v1/groups/workspace", {"percent": 10, "reason": "trouble"})
        report = await ended(desk, report)
    assert "meanwhile" in report["why"]
    assert (await desk.status())["groups"]["workspace"]["percent"] == 10


async def test_a_kill_meanwhile_stays_and_the_share_under_it_too(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)
    async with data_port(desk) as port:
        report = await begun(desk, every_s=1, for_s=60)
        await until(lambda: {side for _, _, side in port.asked} == {Side.OLD, Side.NEW}, "it has flipped")
        await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "it burns"})
        report = await ended(desk, report)
    assert "was killed by a-approver meanwhile: it burns" in report["why"]
    status = await desk.status()
    assert [kill["scope"] for kill in status["kills"]] == ["group:workspace"]
    assert status["groups"]["workspace"]["percent"] == 40


async def test_ended_by_hand_everything_is_put_back(desk: Desk) -> None:
    async with data_port(desk) as port:
        report = await begun(desk, every_s=1, for_s=60)
        await until(lambda: Side.NEW in {side for _, _, side in port.asked}, "it has flipped")
        report = (await desk.ask("DELETE", f"/v1/drills/{report['id']}")).json()
    assert report["restored"]
    policy = await desk.plane.state.store.read()
    assert policy is not None
    assert policy.groups["workspace"].allow == frozenset()
    assert (await desk.status())["groups"]["workspace"]["stage"] == "off"


async def test_a_drill_that_fails_says_what_its_requests_saw(desk: Desk) -> None:
    await desk.go_live("workspace", percent=40)
    async with data_port(desk):
        body = {"fault": "errors", "reason": "test", "operation": "work.read", "load": 50}
        report = (await desk.ask("POST", "/v1/drills", body)).json()

        async def is_on() -> bool:
            return bool((await desk.ask("GET", f"/v1/drills/{report['id']}")).json()["phase"] == "fault")

        await until_async(is_on, "the fault is on")
        await desk.ask("POST", "/v1/kills", {"scope": "group:workspace", "reason": "it burns"})
        report = await ended(desk, report)
    assert "it burns" in report["why"]
    assert report["requests"]["sent"] > 0
    assert report["series"] is not None
    assert report["times"]["to_trip_s"] is None


@pytest.mark.parametrize(
    "changes", [{"for_s": 2}, {"every_s": 2, "for_s": 5}, {"load": 0}, {"share_percent": 1}, {"every_s": 0}]
)
async def test_flips_that_cannot_be_asked_for(desk: Desk, changes: dict[str, Any]) -> None:
    answer = await desk.ask("POST", "/v1/drills", {**FLIPS, **changes})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")
