"""CPU time of one small GET through the upstream client, kernel included, on loopback under uvloop.

    python bench/upstream_cpu.py [--exchanges 20000] [--concurrency 32]

The server is a process of its own, so only the client's CPU time is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import sys
import time
from typing import cast

import uvloop

from gateway.core.model import Deadlines, Instance, Side, SideDefinition
from gateway.ports import UpstreamRequest
from gateway.upstream import SideUpstream

_ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: bench\r\ncontent-type: application/json\r\n"
    b"content-length: 16\r\nx-request-id: 0123456789abcdef\r\n\r\n" + b'{"clean": true}\n'
)
_HEADERS = [
    (b"host", b"gateway.example"),
    (b"user-agent", b"bench/1"),
    (b"accept", b"*/*"),
    (b"x-agent-id", b"agent-1"),
    (b"x-task-id", b"task-1"),
    (b"via", b"1.1 crossfade"),
    (b"x-forwarded-for", b"127.0.0.1"),
    (b"x-request-id", b"0123456789abcdef"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER * data.count(b"\r\n\r\n"))


def _serve(ready: multiprocessing.connection.Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


async def _ask(side: SideUpstream, count: int) -> None:
    request = UpstreamRequest(b"GET", b"/v1/git/status?x=1", _HEADERS, None, Deadlines(), may_retry=True)
    for _ in range(count):
        response = await side.exchange(request, "agent-1/task-1")
        while await response.read():
            pass


async def _measure(port: int, exchanges: int, concurrency: int) -> float:
    instance = Instance(f"http://127.0.0.1:{port}", "127.0.0.1", port)
    side = SideUpstream(SideDefinition(Side.OLD, (instance,)))
    await asyncio.gather(*(_ask(side, 50) for _ in range(concurrency)))
    start = time.process_time()
    await asyncio.gather(*(_ask(side, exchanges // concurrency) for _ in range(concurrency)))
    spent = time.process_time() - start
    await side.aclose()
    return spent / (exchanges // concurrency * concurrency) * 1e6


def main() -> None:
    """Prints three rounds, in CPU µs per exchange."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    try:
        for _ in range(3):
            spent = uvloop.run(_measure(port, options.exchanges, options.concurrency))
            sys.stdout.write(f"{spent:.1f} µs CPU per exchange, {options.concurrency} at a time\n")
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
