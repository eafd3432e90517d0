"""A side client in front of scripted servers, and short ways to ask it for something."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

from gateway.core.model import Balance, Deadlines, Headers, Instance, Side, SideDefinition
from gateway.ports import StreamedBody, UpstreamRequest, UpstreamResponse
from gateway.upstream import SideUpstream, UpstreamLimits
from tests.support.raw_upstream import PATIENCE_S, RawUpstream, Script

PATIENT = Deadlines(
    connect_s=PATIENCE_S, send_s=PATIENCE_S, first_byte_s=PATIENCE_S, between_bytes_s=PATIENCE_S, total_s=None
)
"""Deadlines that no test which is not about deadlines runs into."""

LIMITS = UpstreamLimits(waiting_s=PATIENCE_S)


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward, and that knows host names of its own.

    The clock goes on running at its pace in between. `names` holds the addresses of a host, none = unknown; `lookups`
    the hosts asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skipped_s = 0.0
        self.names: dict[str, list[str]] = {}
        self.lookups: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        self.lookups.append(host)
        if not self.names.get(host):
            raise socket.gaierror(socket.EAI_NONAME, "unknown host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.names[host]]

    def time(self) -> float:
        return super().time() + self._skipped_s

    def put_forward(self, seconds: float) -> None:
        self._skipped_s += seconds


def skipping_loop() -> SkippingLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    return loop


async def let_pass(seconds: float) -> None:
    """Lets time pass at once, with every timer that falls due. Only on a `SkippingLoop`."""
    loop = skipping_loop()
    loop.put_forward(seconds)
    for _ in range(3):  # timers fire in the next turn; what they set off, in the one after
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


def tcp(port: int) -> Instance:
    return Instance(f"http://127.0.0.1:{port}", "127.0.0.1", port)


@contextlib.asynccontextmanager
async def side_of(
    *instances: Instance, limits: UpstreamLimits = LIMITS, balance: Balance = Balance.KEY, ca_file: str | None = None
) -> AsyncIterator[SideUpstream]:
    definition = SideDefinition(Side.OLD, instances, balance=balance, ca_file=ca_file)
    side = SideUpstream(definition, limits, Random(1))
    await side.start()
    try:
        yield side
    finally:
        await side.aclose()
        stats = side.stats()
        assert (stats.connecting, stats.idle, stats.in_use, stats.waiting) == (0, 0, 0, 0)


@contextlib.asynccontextmanager
async def scripted(
    script: Script, limits: UpstreamLimits = LIMITS, receive_buffer: int | None = None
) -> AsyncIterator[tuple[SideUpstream, RawUpstream]]:
    """A side of one instance whose connections run `script`."""
    async with (
        RawUpstream(script, receive_buffer=receive_buffer) as server,
        side_of(tcp(server.port), limits=limits) as side,
    ):
        yield side, server


def get(
    target: bytes = b"/",
    *,
    method: bytes = b"GET",
    headers: Headers | None = None,
    deadlines: Deadlines = PATIENT,
    may_retry: bool = True,
) -> UpstreamRequest:
    """A request without a body that may be retried."""
    fields = [(b"host", b"example.test")] if headers is None else headers
    return UpstreamRequest(method, target, fields, None, deadlines, may_retry)


def post(
    body: bytes | StreamedBody,
    *,
    headers: Headers | None = None,
    deadlines: Deadlines = PATIENT,
    may_retry: bool = False,
) -> UpstreamRequest:
    """A request with a body that may not be retried."""
    return replace(get(method=b"POST", headers=headers, deadlines=deadlines, may_retry=may_retry), body=body)


async def read_all(response: UpstreamResponse) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return b"".join(pieces)


async def fetch(side: SideUpstream, request: UpstreamRequest | None = None, key: str | None = None) -> bytes:
    """The body of the answer."""
    return await read_all(await side.exchange(request or get(), key))


def within(**changes: float | None) -> Deadlines:
    """Patient deadlines, but for some."""
    return replace(PATIENT, **changes)  # type: ignore[arg-type]  # names are checked by dataclasses.replace
