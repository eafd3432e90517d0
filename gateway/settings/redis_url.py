"""Where Redis is. Owns the rule that a password in the URL is shown to nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_FORMS: Final = "redis://host:6379/0, rediss://host:6380/0 or unix:///path/redis.sock, or nothing for the embedded one"
_NO_URL: Final = f"is no Redis URL (a password is written percent-encoded); write {_FORMS}"
_PARAMETERS: Final = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


@dataclass(frozen=True, slots=True, repr=False)
class RedisUrl:
    """The address of a Redis server; empty = the embedded one.

    Its text forms hide the credentials; `reveal` is for whoever connects.
    """

    _url: str = ""

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Reads a URL.

        Raises:
            ValueError: It is none. The message repeats nothing of it.
        """
        if not text:
            return cls()
        try:
            url = urlsplit(text)
            port = url.port
            parameters = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        except ValueError:
            # The cause repeats the URL, password included.
            raise ValueError(_NO_URL) from None
        if url.scheme not in ("redis", "rediss", "unix") or url.fragment or not text.isprintable():
            raise ValueError(_NO_URL)
        _check_parameters([name for name, _ in parameters])
        databases = [value for name, value in parameters if name == "db"]
        if url.scheme == "unix":
            if not url.path.startswith("/") or url.hostname or port:
                raise ValueError("is no path of a socket; write unix:///path/redis.sock")
        else:
            if not url.hostname:
                raise ValueError(f"names no host; write {_FORMS}")
            databases += [url.path.removeprefix("/")] if url.path not in ("", "/") else []
        if len(databases) > 1 or not all(db.isascii() and db.isdigit() for db in databases):
            raise ValueError("names no database; write its number once, as redis://host:6379/0")
        return cls(text)

    def reveal(self) -> str:
        """The whole URL with its credentials: for connecting, never for showing."""
        return self._url

    def __bool__(self) -> bool:
        return bool(self._url)

    def __str__(self) -> str:
        if not self._url:
            return "embedded"
        url = urlsplit(self._url)
        credentials, at, address = url.netloc.rpartition("@")
        return f"{url.scheme}://{'***' if credentials else ''}{at}{address}{url.path}"

    def __repr__(self) -> str:
        return f"RedisUrl({str(self)!r})"


def _check_parameters(names: list[str]) -> None:
    if {"password", "username"} & set(names):
        raise ValueError("holds credentials as parameters; write them before the host: redis://USER:PASSWORD@host:6379")
    unknown = set(names) - _PARAMETERS
    if unknown or len(set(names)) != len(names):
        raise ValueError(
            f"holds parameters that are unknown or stand twice; known are {', '.join(sorted(_PARAMETERS))}"
        )
