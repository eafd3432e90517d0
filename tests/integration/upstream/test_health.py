"""Active health checks of instances: who fails them gets no new exchange while another can have it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest
from structlog.testing import capture_logs

from gateway.core.model import Balance, HealthProbe, Instance, Side, SideDefinition
from gateway.upstream import SideUpstream, UpstreamLimits
from gateway.upstream.health import FALL
from tests.integration.upstream.harness import LIMITS, fetch, let_pass, tcp
from tests.support.raw_upstream import Peer, RawUpstream, Script, answer, eventually

skipping = pytest.mark.asyncio(loop_factories=["skipping"])
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
PROBE = HealthProbe("/healthz", 0.01)


class Service:
    """A raw instance that answers its name, and says of its health what `health` is."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.health = answer(b"fine")
        self.checks: list[bytes] = []

    async def script(self, peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            if b" /healthz " in request.line:
                self.checks.append(request.raw)
                await peer.send(self.health)
            else:
                await peer.send(answer(self.name))


@contextlib.asynccontextmanager
async def checked(
    *scripts: Script, balance: Balance = Balance.P2C, limits: UpstreamLimits = LIMITS
) -> AsyncIterator[SideUpstream]:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RawUpstream(script)) for script in scripts]
        instances: tuple[Instance, ...] = tuple(tcp(server.port) for server in servers)
        side = SideUpstream(SideDefinition(Side.OLD, instances, balance=balance, health=PROBE), limits, Random(1))
        await side.start()
        try:
            yield side
        finally:
            await side.aclose()


async def test_an_instance_that_fails_its_checks_gets_nothing_until_it_is_well() -> None:
    one, two = Service(b"one"), Service(b"two")
    with capture_logs() as logs:
        async with checked(one.script, two.script) as side:
            assert {await fetch(side) for _ in range(40)} == {b"one", b"two"}
            one.health = BROKEN
            await eventually(lambda: side.stats().unwell == 1)
            assert {await fetch(side) for _ in range(40)} == {b"two"}
            one.health = answer(b"fine")
            await eventually(lambda: side.stats().unwell == 0)
            assert {await fetch(side) for _ in range(40)} == {b"one", b"two"}
    told = [entry["event"] for entry in logs if entry["event"].startswith("instance_")]
    assert told == ["instance_unwell", "instance_well"]


async def test_a_check_is_a_get_of_the_path_and_says_who_asks() -> None:
    one, two = Service(b"one"), Service(b"two")
    async with checked(one.script, two.script):
        await eventually(lambda: len(one.checks) > 2)
    assert one.checks[0].startswith(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"user-agent: crossfade-health\r\n" in one.checks[0]


async def test_nobody_is_left_out_when_all_are_unwell() -> None:
    one, two = Service(b"one"), Service(b"two")
    one.health = two.health = BROKEN
    async with checked(one.script, two.script) as side:
        await eventually(lambda: side.stats().unwell == 2)
        assert {await fetch(side) for _ in range(40)} == {b"one", b"two"}


async def test_a_key_is_served_by_its_own_instance_whatever_checks_say() -> None:
    one, two = Service(b"one"), Service(b"two")
    async with checked(one.script, two.script, balance=Balance.KEY) as side:
        keys = [f"agent-{number}" for number in range(20)]
        homes = {key: await fetch(side, key=key) for key in keys}
        one.health = BROKEN
        await eventually(lambda: side.stats().unwell == 1)
        assert {key: await fetch(side, key=key) for key in keys} == homes
        assert {await fetch(side) for _ in range(40)} == {b"two"}


async def silent(peer: Peer) -> None:
    await peer.receive_request()
    await peer.wait_closed()


async def cutting(peer: Peer) -> None:
    await peer.receive_request()


async def babbling(peer: Peer) -> None:
    await peer.receive_request()
    await peer.send(b"SSH-2.0-nonsense\r\n")


@skipping
async def test_no_answer_in_time_is_no_health() -> None:
    two = Service(b"two")
    async with checked(silent, two.script) as side:
        for _ in range(10 * FALL):
            await let_pass(1.0)
            await asyncio.sleep(0)
        assert side.stats().unwell == 1
        assert {await fetch(side) for _ in range(40)} == {b"two"}


@pytest.mark.parametrize("script", [cutting, babbling])
async def test_no_answer_is_no_health(script: Script) -> None:
    two = Service(b"two")
    async with checked(script, two.script) as side:
        await eventually(lambda: side.stats().unwell == 1)
        assert {await fetch(side) for _ in range(40)} == {b"two"}


async def test_checks_have_a_place_beside_a_full_instance() -> None:
    one, two = Service(b"one"), Service(b"two")
    held = 0

    async def holding(peer: Peer) -> None:
        nonlocal held
        while b" /healthz " in (request := await peer.receive_request()).line:
            one.checks.append(request.raw)
            await peer.send(answer(b"fine"))
        held += 1
        await peer.wait_closed()

    limits = UpstreamLimits(connections=1, waiting_s=LIMITS.waiting_s)
    async with checked(holding, two.script, limits=limits) as side:
        stuck = []
        while not held:
            stuck.append(asyncio.ensure_future(fetch(side)))
            await asyncio.wait(stuck[-1:], timeout=0.01)
        before = len(one.checks)
        await eventually(lambda: len(one.checks) > before + 3)
        assert side.stats().unwell == 0
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_a_retired_side_is_checked_no_more() -> None:
    one, two = Service(b"one"), Service(b"two")
    async with checked(one.script, two.script) as side:
        await eventually(lambda: bool(one.checks))
        side.retire()
        await eventually(lambda: all("_follow" not in repr(task) for task in asyncio.all_tasks()))
