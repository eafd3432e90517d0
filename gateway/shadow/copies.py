"""The copy of a read for a side: the same request, marked, named after that side, credentials only where allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.model import Headers, Side
from gateway.core.secrets import Payload, holds_secret, without_secrets
from gateway.ports import ServedRead, UpstreamRequest

_MARK: Final = (b"crossfade-copy", b"mirror")


@dataclass(frozen=True, slots=True)
class CopyPolicy:
    """What copies for a side carry.

    Attributes:
        is_trusted: Clients' secrets go with them, and the internal token.
        replacing: Fields that they carry instead of the client's of the same name.
    """

    is_trusted: bool = False
    replacing: tuple[tuple[bytes, bytes], ...] = ()


def copy_for(
    read: ServedRead,
    side: Side,
    policies: Mapping[Side, CopyPolicy],
    deadline_s: float,
    holds: Callable[[], bool],
) -> UpstreamRequest:
    """The copy of a read.

    Args:
        read: As it was served.
        side: For whom; the serving side gets copies too, for learning and for a second look.
        policies: By side.
        deadline_s: Bounds the whole exchange, where the operation does not bound it more.
        holds: Whether it is still wanted, asked when it waited for a connection.
    """
    policy = policies[side]
    replaced = {name for name, _ in policy.replacing}
    host, fallback = read.hosts[side]
    headers: Headers = []
    for name, value in read.request.headers if is_trusted(read, side, policies) else _harmless(read):
        if name == b"host":
            headers.append((name, host or read.client_host or fallback))
        elif name not in replaced:
            headers.append((name, value))
    total_s = read.request.deadlines.total_s
    bound_s = deadline_s if total_s is None else min(deadline_s, total_s)
    return replace(
        read.request,
        headers=[*headers, *policy.replacing, _MARK],
        deadlines=replace(read.request.deadlines, total_s=bound_s),
        holds=holds,
        upgrade=None,
    )


def is_trusted(read: ServedRead, side: Side, policies: Mapping[Side, CopyPolicy]) -> bool:
    """Whether a side may see the secrets of a read: the serving side has seen them already."""
    return side is read.side or policies[side].is_trusted


def holds_secret_of(read: ServedRead) -> bool:
    """Whether a secret stands in a read's query or body, from where it cannot be dropped."""
    request = read.request
    body = request.body if isinstance(request.body, bytes) else None
    kind = next((value for name, value in request.headers if name == b"content-type"), b"")
    payload = Payload(request.target.partition(b"?")[2], body, kind, read.is_mcp)
    return holds_secret(payload, read.plan.operation.secrets)


def _harmless(read: ServedRead) -> Headers:
    return without_secrets(read.request.headers, read.plan.operation.secrets)
