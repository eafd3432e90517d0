"""One gateway worker as a process: `python -m gateway.worker --parts FILE --name gateway-0 --fd N --channel-fd M`.

Started by the supervisor, which gives it a bound socket and one end of a channel. It ends when told to drain, and at
once when the supervisor is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
import uvloop

from gateway.app import DataPlane, load_parts_migration, load_tls
from gateway.channel import Channel, open_channel
from gateway.errors import CrossfadeError
from gateway.parts import Parts
from gateway.settings import SettingsError
from gateway.settings.gateway_file import GatewaySettings
from gateway.telemetry.logs import configure_logs

REPORT_S: Final = 0.25
_GC_ALLOCATIONS: Final = 10_000
FAILED: Final = 1
_OTHER_DESCRIPTORS: Final = 128

_log = structlog.get_logger("crossfade.worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the worker; returns its exit code."""
    parser = argparse.ArgumentParser(prog="gateway.worker", description="One gateway worker; started by crossfade.")
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--channel-fd", type=int, required=True)
    options = parser.parse_args(argv)
    try:
        parts = Parts.read(options.parts)
        settings = GatewaySettings.model_validate(parts.settings)
        configure_logs(settings.log.level, settings.log.format, part=options.name)
        loaded = load_parts_migration(parts, settings)
        tls = load_tls(settings)
        settings = fitted(settings)
    except (CrossfadeError, SettingsError, ValueError) as exc:
        sys.stderr.write(f"{options.name}: {exc}\n")
        return FAILED
    sock = socket.socket(fileno=options.fd)

    # What is loaded by now lives as long as the process. Looked through again and again, it would cost every request
    # some microseconds and, now and then, one of them tens of milliseconds.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 100)

    async def run() -> int:
        plane = DataPlane(options.name, parts, settings, loaded.definition, tls)
        return await Worker(plane, await open_channel(options.channel_fd)).run(sock)

    return uvloop.run(run())


def fitted(settings: GatewaySettings) -> GatewaySettings:
    """The settings with as many client connections as this process can hold; raises its own limit first.

    Where descriptors ran out before `edge.connections` is reached, nobody would be let go for a new client: the
    listener must know the bound that holds.
    """
    reserve = 2 * (settings.upstream.connections + settings.shadow.concurrency) + _OTHER_DESCRIPTORS
    wanted = settings.edge.connections + reserve
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError):
            allowed = soft
    if allowed >= wanted:
        return settings
    connections = max(allowed - reserve, 1)
    _log.info("connections_bounded", by="ulimit -n", descriptors=allowed, connections=connections)
    return settings.model_copy(update={"edge": settings.edge.model_copy(update={"connections": connections})})


class Worker:
    """Connects a data plane with the supervisor."""

    def __init__(self, plane: DataPlane, channel: Channel) -> None:
        self._plane = plane
        self._channel = channel
        self._is_ready = False

    async def run(self, sock: socket.socket) -> int:
        """Serves until drained."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._plane.server.drain(linger=False))
        # Ctrl-C in a terminal reaches the whole group; the supervisor says when to leave.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        self._plane.bind(sock)
        await self._plane.start()
        tasks = [asyncio.create_task(self._obey()), asyncio.create_task(self._report())]
        try:
            await self._plane.server.serve(sockets=[sock])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._plane.settle()
            self._channel.send({"type": "counters", "counters": self._plane.blob()})
            self._plane.publish()
            await self._plane.aclose()
            self._channel.close()
        return 0

    async def _obey(self) -> None:
        async for message in self._channel.messages():
            match message.get("type"):
                case "drain":
                    self._plane.server.drain(linger=bool(message.get("linger")))
                case "reload":
                    await self._plane.reload()
                case other:
                    _log.warning("message_unknown", type=str(other))
        # The supervisor is gone, and with it whoever would end us: nothing may be left behind.
        os._exit(FAILED)

    async def _report(self) -> None:
        while True:
            if not self._is_ready and self._plane.server.started and self._plane.state.feed.current is not None:
                self._is_ready = True
                self._channel.send({"type": "ready"})
            self._channel.send({"type": "counters", "counters": self._plane.blob()})
            self._plane.publish()
            await asyncio.sleep(REPORT_S if self._is_ready else REPORT_S / 10)


if __name__ == "__main__":
    sys.exit(main())
