"""CPU of the general lane per proxied request, and its memory while a gigabyte passes.

    .venv/bin/python -m bench.general_lane [--requests N] [--gigabytes N]

A real worker on a real Redis between a stub side and a client in other processes. CPU time is that of the worker
process alone, so a shared machine does not change it much. Compare runs on one machine; take the best of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.support.redis_process import running_redis
from tests.support.worker import Bench, WorkerProcess, bench, bound_socket

CONNECTIONS = 32
ROUNDS = 3
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n" + b'{"status":"ok"}'
PIECE = b"x" * 65_536


class Side(asyncio.Protocol):
    """Answers small GETs at once, takes uploads, and gives `/down/<bytes>` bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.head = b""
        self.left = 0
        self.owed = 0

    def data_received(self, data: bytes) -> None:
        if self.left:
            self.left -= len(data)
            if self.left <= 0:
                self.transport.write(ANSWER)
            return
        self.head += data
        while b"\r\n\r\n" in self.head:
            head, _, rest = self.head.partition(b"\r\n\r\n")
            self.head = b""
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if head.startswith(b"GET /down/"):
                self.owed = int(head.split(b"/")[2].split(b" ")[0])
                self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self.owed)
                self.resume_writing()
            elif lengths and int(lengths[0].split(b":")[1]):
                self.left = int(lengths[0].split(b":")[1]) - len(rest)
                if self.left <= 0:
                    self.transport.write(ANSWER)
                return
            else:
                self.transport.write(ANSWER)
                self.head = rest

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        while self.owed and not self.is_paused:
            size = min(self.owed, len(PIECE))
            self.owed -= size
            self.transport.write(PIECE[:size])


def serve_side(port: Any) -> None:
    """A process that is a side."""
    import uvloop

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Side, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


def ask(port: int, requests: int) -> None:
    """A process that is the clients."""
    import uvloop

    async def client(number: int, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET /items/1 HTTP/1.1\r\nhost: shop.example\r\nx-key: k%d\r\naccept: */*\r\n\r\n" % number
        for _ in range(count):
            writer.write(request)
            await reader.readuntil(b'"ok"}')
        writer.close()

    async def run() -> None:
        await asyncio.gather(*(client(n, requests // CONNECTIONS) for n in range(CONNECTIONS)))

    uvloop.run(run())


async def stream(port: int, size: int, *, up: bool) -> None:
    """One long body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if up:
        writer.write(b"POST /up HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
        await reader.readuntil(b'"ok"}')
    else:
        writer.write(b"GET /down/%d HTTP/1.1\r\nhost: a\r\n\r\n" % size)
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < size:
            got += len(await reader.read(1 << 20))
    writer.close()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Largest resident size of a process so far."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def migration(side: int) -> dict[str, Any]:
    """One read, live at 50 %."""
    side_url = {"instances": [f"http://127.0.0.1:{side}"]}
    return {
        "migration": "bench",
        "sides": {"old": side_url, "new": {"instances": [f"http://localhost:{side}"]}},
        "groups": {"items": {"writes": "shared", "key": [["header:x-key"]]}},
        "operations": {
            "item.get": {
                "class": "read", "group": "items", "match": {"rest": "GET /items/{id}"}, "stage": "live", "percent": 50,
            }
        },
    }  # fmt: skip


async def measure(place: Bench, requests: int, gigabytes: float) -> None:
    """Prints what was measured."""
    worker: WorkerProcess = await place.start(sock=bound_socket())
    pid = worker.process.pid
    context = get_context("spawn")
    for number in range(ROUNDS):
        before, begun = cpu_s(pid), time.perf_counter()
        client = context.Process(target=ask, args=(worker.port, requests))
        client.start()
        await asyncio.to_thread(client.join)
        used, took = cpu_s(pid) - before, time.perf_counter() - begun
        print(f"round {number + 1}: {used / requests * 1e6:6.1f} us CPU per request, {requests / took:7.0f} requests/s")
    size = int(gigabytes * (1 << 30)) // len(PIECE) * len(PIECE)
    for up in (True, False):
        before_mib, before, begun = peak_mib(pid), cpu_s(pid), time.perf_counter()
        await stream(worker.port, size, up=up)
        took = time.perf_counter() - begun
        print(
            f"{gigabytes:g} GiB {'up  ' if up else 'down'}: peak memory {before_mib:.0f} -> {peak_mib(pid):.0f} MiB, "
            f"{cpu_s(pid) - before:.1f} s CPU, {size / took / (1 << 20):.0f} MiB/s"
        )


async def main() -> None:
    """Sets the scene and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    options = parser.parse_args()
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    side = context.Process(target=serve_side, args=(theirs,), daemon=True)
    side.start()
    port = await asyncio.to_thread(ours.recv)
    try:
        with tempfile.TemporaryDirectory() as directory, running_redis() as redis:
            async with bench(Path(directory), redis.url, migration(port), log={"level": "warning"}) as place:
                place.prepare()
                await place.boot()
                await measure(place, options.requests, options.gigabytes)
    finally:
        side.terminate()
        side.join()


if __name__ == "__main__":
    asyncio.run(main())
