"""Addresses as the file writes them: instances of a side, the `Host` that a side wants, trusted networks."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.core.model import Instance
from gateway.settings.problems import did_you_mean

BUNDLED_PREFIX: Final = "bundled:"
BUNDLED_SERVICES: Final = ("approach1", "approach2")
_UNIX_PREFIX: Final = "unix:"
_UNIX_PATH_LIMIT_BYTES: Final = 107  # sun_path of unix(7) without its terminating NUL
_FORMS: Final = "http://host:port, https://host:port, unix:/path or bundled:approach1"
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9_-]{0,62})?(\.[a-z0-9]([a-z0-9_-]{0,62})?)*\.?")
_HOST_FIELD: Final = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def parse_instance(text: str) -> Instance:
    """Reads the address of an instance. One of `bundled:…` is a placeholder without a port.

    Raises:
        ValueError: It is no address. The message never repeats user info.
    """
    if text.startswith(BUNDLED_PREFIX):
        name = text.removeprefix(BUNDLED_PREFIX)
        if name not in BUNDLED_SERVICES:
            raise ValueError(f'there is no bundled service "{name}"; {did_you_mean(name, BUNDLED_SERVICES)}')
        return Instance(text, "", 0)
    if text.startswith(_UNIX_PREFIX):
        return _unix_instance(text)
    if "@" in text:
        raise ValueError(f"holds user info, which would be sent in the clear; write {_FORMS}")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(f"is no address; write {_FORMS}") from None
    # Brackets are for IPv6; urlsplit also lets through the IPvFuture that nobody has.
    if url.scheme not in ("http", "https") or not url.hostname or ("[" in url.netloc and ":" not in url.hostname):
        raise ValueError(f"is no address; write {_FORMS}")
    _refuse_extras(url)
    host = _host(url.hostname)
    shown = f"[{host}]" if ":" in host else host
    if not port:
        raise ValueError(f"needs a port; write {url.scheme}://{shown}:{443 if url.scheme == 'https' else 80}")
    return Instance(f"{url.scheme}://{shown}:{port}", host, port, tls=url.scheme == "https")


def is_placeholder(instance: Instance) -> bool:
    """Whether this is a bundled service whose address is not known yet."""
    return instance.name.startswith(BUNDLED_PREFIX) and not instance.port and instance.unix_path is None


def parse_host_field(text: str) -> str:
    """Checks a value for the `Host` field.

    Raises:
        ValueError: It is no host with or without a port.
    """
    if not _HOST_FIELD.fullmatch(text):
        raise ValueError("is no Host value; write host or host:port")
    return text


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Reads an address or a network.

    Raises:
        ValueError: It is neither, or has bits set behind its prefix.
    """
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is no address or network; write 10.0.0.1 or 10.0.0.0/8") from None
    raise ValueError(f"has bits set behind its prefix; write {network} or the single address")


def _unix_instance(text: str) -> Instance:
    path = text.removeprefix(_UNIX_PREFIX)
    if path.startswith("//") or not path.startswith("/") or not path.isprintable():
        raise ValueError(f"must be unix: and an absolute path; write unix:/{path.lstrip('/')}")
    if len(path.encode()) > _UNIX_PATH_LIMIT_BYTES:
        raise ValueError(f"is longer than {_UNIX_PATH_LIMIT_BYTES} bytes, which no socket's path can be; shorten it")
    return Instance(text, "", 0, unix_path=path)


def _refuse_extras(url: SplitResult) -> None:
    for part, what in ((url.path, "path"), (url.query, "query"), (url.fragment, "fragment")):
        if part:
            raise ValueError(f"holds a {what}, and requests keep their own; write {url.scheme}://{url.netloc}")


def _host(host: str) -> str:
    """`host` if it can be one; urlsplit has lowered its case and taken the brackets off."""
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except ValueError:
            raise ValueError(f"is no address; write {_FORMS}") from None
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"is no host name; write {_FORMS}")
    return host
