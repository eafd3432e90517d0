"""The service's own credential for remotes, used where a call brings none, and for the hosts that it is for alone."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_HOSTS: Final = "github.com"
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Credential:
    """A token, and where it may be sent. Callers choose URLs: it must not follow them anywhere else.

    Attributes:
        token: None = there is none.
        hosts: `host` or `host:port`, in lower case.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()

    @classmethod
    def take(cls, env: MutableMapping[str, str]) -> Credential:
        """Reads `CROSSFADE_GIT_TOKEN[_FILE]` and removes it; `CROSSFADE_GIT_TOKEN_HOSTS` (default github.com).

        Raises:
            OSError: The file cannot be read.
            ValueError: It holds something else than visible ASCII.
        """
        token, path = env.pop("CROSSFADE_GIT_TOKEN", ""), env.pop("CROSSFADE_GIT_TOKEN_FILE", "")
        if not token and path:
            token = Path(path).read_text().strip()
        if not token:
            return cls()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("CROSSFADE_GIT_TOKEN holds something else than visible ASCII characters")
        named = (env.get("CROSSFADE_GIT_TOKEN_HOSTS") or _DEFAULT_HOSTS).split(",")
        return cls(token, frozenset(host.strip().lower() for host in named if host.strip()))

    def for_url(self, url: str) -> str | None:
        """The token, if it is for that remote; never in clear text but on this machine."""
        if self.token is None or not url.startswith(("http://", "https://")):
            return None
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme == "http" and not _is_this_machine(host):
            return None
        port = parts.port or _PORTS[parts.scheme]
        is_standard = port == _PORTS["https"]
        is_named = f"{host}:{port}" in self.hosts or (is_standard and host in self.hosts)
        return self.token if is_named else None


NO_CREDENTIAL: Final = Credential()


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
