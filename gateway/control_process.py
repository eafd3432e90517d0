"""The control process: `python -m gateway.control_process --parts FILE --fd N --channel-fd M`.

Started by the supervisor, which gives it a bound socket and one end of a channel; without a supervisor it does not live
on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import structlog
import uvloop

from gateway.app import load_parts_migration
from gateway.channel import Channel, Message, open_channel
from gateway.control_plane import NAME, ControlPlane
from gateway.errors import CrossfadeError
from gateway.parts import Parts
from gateway.settings import SettingsError
from gateway.settings.gateway_file import GatewaySettings
from gateway.telemetry.logs import configure_logs

FAILED: Final = 1
_READY_S: Final = 0.02

_log = structlog.get_logger("crossfade.control")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the control process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="gateway.control_process", description="Control; started by crossfade.")
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--channel-fd", type=int, required=True)
    options = parser.parse_args(argv)
    try:
        parts = Parts.read(options.parts)
        settings = GatewaySettings.model_validate(parts.settings)
        configure_logs(settings.log.level, settings.log.format, part=NAME)
        loaded = load_parts_migration(parts, settings)
        sock = socket.socket(fileno=options.fd)
        check_exposure(sock, is_insecure=settings.insecure_control)
    except (CrossfadeError, SettingsError, ValueError) as exc:
        sys.stderr.write(f"{NAME}: {exc}\n")
        return FAILED

    async def run() -> int:
        plane = ControlPlane(parts, settings, loaded)
        return await Process(plane, await open_channel(options.channel_fd)).run(sock)

    return uvloop.run(run())


class ExposureError(CrossfadeError):
    """Control would be reachable from elsewhere, in the clear."""


def check_exposure(sock: socket.socket, *, is_insecure: bool) -> None:
    """Refuses to carry tokens in the clear beyond this machine.

    Raises:
        ExposureError: The socket is not a loopback one, and nobody said that this is meant.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or is_insecure:
        return
    host = str(sock.getsockname()[0])
    if not ip_address(host.partition("%")[0]).is_loopback:
        raise ExposureError(
            f"control would listen on {host} without TLS; bind it to 127.0.0.1 behind a TLS proxy, or say"
            " --insecure-control"
        )


class Process:
    """Connects control with the supervisor."""

    def __init__(self, plane: ControlPlane, channel: Channel) -> None:
        self._plane = plane
        self._channel = channel

    async def run(self, sock: socket.socket) -> int:
        """Serves until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        # Ctrl-C in a terminal reaches the whole group; the supervisor says when to leave.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        # From the first moment on: a process whose supervisor dies while it starts must not stay.
        obeying = asyncio.create_task(self._obey())
        await self._plane.start()
        saying = asyncio.create_task(self._say_ready())
        try:
            await self._plane.server.serve(sockets=[sock])
        finally:
            for task in (obeying, saying):
                task.cancel()
            await asyncio.gather(obeying, saying, return_exceptions=True)
            await self._plane.aclose()
            self._channel.close()
        return FAILED if self._plane.has_crashed else 0

    def _stop(self) -> None:
        self._plane.server.should_exit = True

    async def _obey(self) -> None:
        try:
            async for message in self._channel.messages():
                await self._do(message)
        except Exception:
            # The process boundary: who cannot hear the supervisor any more must not live on without it.
            _log.exception("channel_failed")
        # The supervisor is gone, and with it whoever would end us: nothing may be left behind.
        os._exit(FAILED)

    async def _do(self, message: Message) -> None:
        match message.get("type"):
            case "drain":
                self._stop()
            case "reload":
                await self._plane.reload()
            case other:
                _log.warning("message_unknown", type=str(other))

    async def _say_ready(self) -> None:
        plane = self._plane
        while not (plane.server.started and plane.is_prepared):  # noqa: ASYNC110 - neither tells
            await asyncio.sleep(_READY_S)
        self._channel.send({"type": "ready"})


if __name__ == "__main__":
    sys.exit(main())
