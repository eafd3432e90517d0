"""Listening sockets, bound by the supervisor and inherited by its parts.

One socket for each worker slot, all on one port (SO_REUSEPORT): a worker's successor inherits its accept queue, so no
connection that the kernel took is lost. SO_REUSEPORT hides a port that somebody else uses; hence the probe first.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

from gateway.local.errors import StartError

_TCP_LISTEN: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""


def bind_shared(host: str, port: int, slots: int) -> list[socket.socket]:
    """Binds one socket for each slot to one port.

    Args:
        host: Address or name to listen on.
        port: 0 = a free one, the same for all slots.
        slots: How many.

    Raises:
        StartError: The address cannot be had.
    """
    family, address = _resolve(host, port)
    with ExitStack() as undo:
        probe = _bind(family, address, host, shared=False)
        chosen = probe.getsockname()[1]
        probe.close()
        bound = []
        for _ in range(slots):
            sock = _bind(family, (address[0], chosen), host, shared=True)
            undo.enter_context(closing(sock))
            bound.append(sock)
        undo.pop_all()
    return bound


def bind_one(host: str, port: int) -> socket.socket:
    """Binds a socket that nobody shares.

    Raises:
        StartError: The address cannot be had.
    """
    family, address = _resolve(host, port)
    return _bind(family, address, host, shared=False)


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """The base URL under which a bound socket is reached from this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - how to reach it, not what to bind
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise StartError(f"{host} is no address of this machine: {exc.strerror}") from exc
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _bind(family: socket.AddressFamily, address: tuple[str, int], host: str, *, shared: bool) -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets whose protocol is named; without it answers come 40 ms late.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        raise StartError(_why_not(exc, host, address[1])) from exc
    return sock


def _why_not(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        owner = _owner_of(port)
        return f"port {port} on {host} is in use{f' by {owner}' if owner else ''}; stop that, or choose another port"
    if exc.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges; choose one above 1023"
    return f"cannot listen on {host} port {port}: {exc.strerror}"


def _owner_of(port: int) -> str | None:
    """The process that listens on a port, if /proc tells."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None
