"""Which remotes may be talked to: public hosts over HTTP, and what the operator named.

A host is resolved once; git gets the address that was judged, so a second answer of the name server cannot lead inside.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from backends.common.credential import NO_CREDENTIAL, Credential
from backends.common.errors import Code, ServiceError
from backends.common.git_command import Remote

_PORTS: Final = {"http": 80, "https": 443}
_RESOLVE_S: Final = 10.0
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1."""


@dataclass(frozen=True, slots=True)
class RemoteRules:
    """What the operator allows.

    Attributes:
        local_roots: Directories below which local repositories may be used.
        hosts: `host` or `host:port` that may resolve to addresses inside.
        credential: Used where a call brings none.
    """

    local_roots: tuple[Path, ...] = ()
    hosts: frozenset[str] = frozenset()
    credential: Credential = NO_CREDENTIAL

    @classmethod
    def from_text(cls, local_remotes: str, remotes: str, credential: Credential = NO_CREDENTIAL) -> RemoteRules:
        """Reads `CROSSFADE_ALLOWED_LOCAL_REMOTES` (a path list) and `CROSSFADE_ALLOWED_REMOTES` (comma-separated)."""
        roots = tuple(Path(part).resolve() for part in local_remotes.split(os.pathsep) if part)
        hosts = frozenset(part.strip().lower() for part in remotes.split(",") if part.strip())
        return cls(roots, hosts, credential)


async def judge_remote(url: str, rules: RemoteRules) -> Remote:
    """Decides whether a remote may be used.

    Raises:
        ServiceError: `remote_refused`.
    """
    if url.startswith(("/", "file://")):
        return await asyncio.to_thread(_judge_local, url, rules.local_roots)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise _refused("it is no URL") from exc
    if parts.scheme not in _PORTS or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise _refused("only http:// and https:// remotes can be used")
    if parts.username is not None or parts.password is not None:
        raise _refused("it holds credentials; give a token as an argument")
    if parts.query or parts.fragment:
        raise _refused("it holds a query or a fragment")
    port = port or _PORTS[parts.scheme]
    addresses = await _resolve(parts.hostname, port)
    named = parts.hostname.lower() in rules.hosts or f"{parts.hostname.lower()}:{port}" in rules.hosts
    if not named and not all(_is_public(address) for address in addresses):
        raise _refused("its host is not a public one")
    if _is_address(parts.hostname):
        return Remote(url)
    address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    return Remote(url, pinned=f"{parts.hostname}:{port}:{address}")


def _judge_local(url: str, roots: Sequence[Path]) -> Remote:
    if url.startswith("file://"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise _refused("a file URL names no host")
        url = unquote(parts.path)
    if "\0" in url:
        raise _refused("it holds NUL")
    try:
        path = Path(url).resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise _refused("there is no such repository, or it may not be used") from exc
    if not any(path == root or root in path.parents for root in roots):
        raise _refused("there is no such repository, or it may not be used")
    repository = path if (path / "HEAD").is_file() else path / ".git"
    if not (repository / "HEAD").is_file() or not (repository / "objects").is_dir():
        # Not left to git, which would also try other names.
        raise _refused("there is no such repository, or it may not be used")
    return Remote(repository.as_uri(), path=str(repository))


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as exc:
        raise _refused("its host has no address") from exc
    return [str(address[0]) for *_, address in found]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    inner = address
    if isinstance(address, IPv6Address):
        # An address that carries another one leads to that one.
        carried = IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
        inner = address.ipv4_mapped or address.sixtofour or carried or address
        if address.teredo is not None:
            return False
    return inner.is_global and not inner.is_multicast


def _refused(why: str) -> ServiceError:
    return ServiceError(Code.REMOTE_REFUSED, f"the remote may not be used: {why}")
