"""Opens connections to one instance: addresses, unix sockets, TLS.

Owns the addresses of a host name. Names are looked up at the start and then in the background, never while a request
waits (but for the very first, when the look-up at the start is not done); a failed look-up keeps the last good
addresses. It must not know pools nor how many connections there may be.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

from gateway.core.model import Instance
from gateway.upstream.connection import Connection

# A side that does not answer our TLS goodbye is not waited for longer.
_TLS_GOODBYE_S = 1.0


class Dialer:
    """Opens connections to one instance."""

    def __init__(self, instance: Instance, tls: ssl.SSLContext | None, resolve_s: float) -> None:
        """Looks nothing up yet.

        Args:
            instance: Where to.
            tls: Settings, where the instance speaks TLS.
            resolve_s: Age at which a name is looked up again.
        """
        self._instance = instance
        self._tls = tls if instance.tls else None
        self._resolve_s = resolve_s
        self._addresses: list[str] = []
        self._lookup: asyncio.Task[None] | None = None
        self._next_lookup: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._needs_lookup = instance.unix_path is None and not _is_numeric(instance.host)
        if not self._needs_lookup:
            self._addresses = [instance.host]

    async def start(self) -> None:
        """Looks a host name up for the first time.

        Raises:
            OSError: It has no address now. The background look-up goes on.
        """
        if self._needs_lookup and not self._addresses:
            await self._resolve()

    async def dial(self, make: Callable[[], Connection]) -> Connection:
        """Opens a connection; the caller bounds the time.

        Args:
            make: Makes the protocol object.

        Raises:
            OSError: No address accepted (TLS refusals included), or the name has none.
        """
        loop = asyncio.get_running_loop()
        if self._instance.unix_path is not None:
            _, connection = await loop.create_unix_connection(make, self._instance.unix_path)
            return connection
        if not self._addresses:
            await self._resolve()
        failure: OSError | None = None
        for address in tuple(self._addresses):
            try:
                return await self._dial_address(loop, make, address)
            except OSError as exc:
                failure = failure or exc
                self._demote(address)
            except asyncio.CancelledError:
                # Most likely the caller's deadline: this address shall not hold up the next attempt as well.
                self._demote(address)
                raise
        assert failure is not None
        raise failure

    def retire(self) -> None:
        """Looks up no more on its own. Dialling still works."""
        self._is_retired = True
        if self._next_lookup is not None:
            self._next_lookup.cancel()
            self._next_lookup = None

    async def aclose(self) -> None:
        """Retires and ends a running look-up."""
        self.retire()
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])

    async def _dial_address(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], Connection], address: str
    ) -> Connection:
        # A numeric host: neither asyncio nor uvloop asks a resolver. TCP_NODELAY is set by both.
        if self._tls is None:
            _, connection = await loop.create_connection(make, address, self._instance.port)
        else:
            _, connection = await loop.create_connection(
                make,
                address,
                self._instance.port,
                ssl=self._tls,
                server_hostname=self._instance.host,
                ssl_shutdown_timeout=_TLS_GOODBYE_S,
            )
        return connection

    def _demote(self, address: str) -> None:
        if len(self._addresses) > 1 and address in self._addresses:
            self._addresses.remove(address)
            self._addresses.append(address)

    async def _resolve(self) -> None:
        """Joins the running look-up, or starts one."""
        if self._lookup is None:
            self._start_lookup()
        lookup = self._lookup
        assert lookup is not None
        # Waited for, not awaited: whoever stops waiting does not stop the look-up for the others.
        await asyncio.wait([lookup])
        if lookup.cancelled():
            raise OSError("the client of this side was closed")
        lookup.result()

    def _start_lookup(self) -> None:
        self._next_lookup = None
        self._lookup = asyncio.get_running_loop().create_task(self._look_up(), name=f"resolve {self._instance.name}")
        self._lookup.add_done_callback(self._lookup_ended)

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(self._instance.host, self._instance.port, type=socket.SOCK_STREAM)
        found = [str(info[4][0]) for info in infos]
        # Addresses that are still good keep their place: the order holds what dialling learnt.
        kept = [address for address in self._addresses if address in found]
        self._addresses = list(dict.fromkeys(kept + found))

    def _lookup_ended(self, lookup: asyncio.Task[None]) -> None:
        self._lookup = None
        if not lookup.cancelled() and (failure := lookup.exception()) and not isinstance(failure, OSError):
            lookup.get_loop().call_exception_handler({"message": "name look-up crashed", "exception": failure})
        if not self._is_retired:
            self._next_lookup = lookup.get_loop().call_later(self._resolve_s, self._start_lookup)


def verifying_tls(ca_file: str | None) -> ssl.SSLContext:
    """The TLS settings of a side; made once, they read files.

    Args:
        ca_file: Authority to trust instead of the system's.

    Raises:
        OSError: The file cannot be read.
        ssl.SSLError: It holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
