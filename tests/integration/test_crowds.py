"""Crowds that cost the gateway memory or patience: bounded, told clearly, and no harm to a good client.

Sizes are those of a quick look; `make torture` multiplies them.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, answer
from tests.support.redis_process import running_redis
from tests.support.sides import StubSide, client, get, live, migration, stub_sides
from tests.support.up import Up, running_up
from tests.support.waiting import until
from tests.support.worker import bench

SCALE = int(os.environ.get("CROSSFADE_TEST_SCALE", "1"))
IDLE = 400 * SCALE
SLOW = 40 * SCALE
IDLE_KIB = 20
"""What an idle connection may cost a worker."""
BIG = b"z" * (1 << 20)


@pytest.fixture(autouse=True)
def descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
async def sides() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
async def gateway(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Up]:
    """One worker."""
    content = live(migration(sides), 50)
    with running_redis() as redis:
        async with bench(tmp_path, redis.url, content) as place:
            await place.boot()
            env = {
                "CROSSFADE_REDIS_URL": redis.url,
                "CROSSFADE_WORKERS": "1",
                "CROSSFADE_EDGE__HEADER_TIMEOUT_S": "2",
                "CROSSFADE_EDGE__KEEP_ALIVE_S": "600",
                # What is kept towards the sides must not hide what clients leave behind.
                "CROSSFADE_UPSTREAM__IDLE_CONNECTIONS": "16",
            }
            async with running_up(tmp_path / "data", content, env=env, command="gateway") as up:
                yield up


def resident_kib(up: Up) -> int:
    lines = Path(f"/proc/{up.pids['gateway-0']}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def descriptors_of(up: Up) -> int:
    return sum(1 for _ in Path(f"/proc/{up.pids['gateway-0']}/fd").iterdir())


async def asks_well(up: Up, count: int = 20) -> None:
    async with client(up.port("gateway")) as good:
        for n in range(count):
            assert (await good.ask(get("/items/1", f"x-key: k{n}"))).status == 200


@asynccontextmanager
async def crowd(
    up: Up, count: int, said: bytes
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """So many clients, from several addresses, that have said something and read nothing yet."""
    async with AsyncExitStack() as stack:
        members = []
        for n in range(count):
            address = (f"127.0.{1 + n // 20_000}.{1 + n % 200}", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", up.port("gateway"), local_addr=address)
            stack.callback(writer.close)
            writer.write(said)
            members.append((reader, writer))
        yield members


async def test_idle_connections_are_cheap(gateway: Up) -> None:
    await asks_well(gateway, 200)
    before, open_before = resident_kib(gateway), descriptors_of(gateway)
    async with crowd(gateway, IDLE, get("/items/1")) as members:
        for reader, _ in members:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        each = (resident_kib(gateway) - before) / IDLE
        print(f"{IDLE} idle connections: {each:.1f} KiB each")  # noqa: T201 - shown by `make torture`
        assert each <= IDLE_KIB
        await asks_well(gateway)
    await until(lambda: descriptors_of(gateway) <= open_before + 64, "their descriptors are closed")


async def test_clients_that_read_nothing_hold_a_bounded_part_of_their_answer(
    gateway: Up, sides: dict[Side, StubSide]
) -> None:
    async def big(peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            await peer.send(answer(BIG if b"/items/big" in request.line else b"ok"))

    for side in sides.values():
        side.script = big
    await asks_well(gateway, 200)
    before = resident_kib(gateway)
    async with crowd(gateway, SLOW, get("/items/big")) as members:
        for reader, _ in members:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        each = (resident_kib(gateway) - before) / SLOW
        print(f"{SLOW} clients that read nothing: {each:.1f} KiB each")  # noqa: T201 - as above
        # Its own buffer, a segment of the kernel's, and what the side's connection holds.
        assert each <= 512
        await asks_well(gateway)
        for reader, _ in members:
            assert await reader.readexactly(len(BIG)) == BIG


async def test_clients_that_never_finish_their_head_are_told_and_let_go(gateway: Up) -> None:
    await asks_well(gateway, 20)
    async with crowd(gateway, SLOW, b"GET /items/1 HTTP/1.1\r\nhost: a\r\nx-slow: ") as members:
        await asks_well(gateway)
        for reader, _ in members:
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_a_flood_of_fields_ends_early(gateway: Up) -> None:
    before = resident_kib(gateway)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port("gateway"))
    writer.write(b"GET /items/1 HTTP/1.1\r\nhost: a\r\n")
    sent = 0
    try:
        while sent < 100 << 20:
            writer.write(b"x-flood: " + b"y" * 1000 + b"\r\n")
            sent += 1010
            await writer.drain()
        said = await reader.read()
    except ConnectionError:
        said = b""
    writer.close()
    assert sent < 32 << 20
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")
    assert resident_kib(gateway) - before < 8 << 10
    await asks_well(gateway)
