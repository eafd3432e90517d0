"""New, asked by control itself, past the data port and whatever stands in its way.

Belongs to the composition root of the control process: control itself does not know how a side is reached.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.blame import Listener
from gateway.core.drill import DrillRequest
from gateway.core.model import Deadlines, Headers, Operation, Side
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import UpstreamRequest
from gateway.state.feed import PolicyFeed
from gateway.upstream import SideUpstream, UpstreamLimits

_SERVER_ERROR: Final = 500


class AskedNewSide:
    """See `gateway.control.drill.ports.NewSide`."""

    def __init__(self, feed: PolicyFeed, limits: UpstreamLimits, auth: bytes | None) -> None:
        """Connects to nothing yet.

        Args:
            feed: The definition in force.
            limits: Bounds.
            auth: The token between gateway and services, or None.
        """
        self._feed = feed
        self._limits = limits
        self._auth = auth

    async def trouble(self, operation: Operation, request: DrillRequest, within_s: float) -> str | None:
        """See the port."""
        snapshot = self._feed.current
        if snapshot is None:
            return "no policy is known that says where it is"
        host, fallback = snapshot.hosts[Side.NEW]
        headers: Headers = [(b"host", host or fallback)]
        headers += [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
        headers += [(b"crossfade-auth", self._auth)] if self._auth else []
        asked = UpstreamRequest(
            method=request.method.encode(),
            target=request.path.encode(),
            headers=headers,
            body=request.body or None,
            deadlines=Deadlines(connect_s=within_s, total_s=within_s),
            may_retry=False,
        )
        # Of its own, so that it has no idle connection and no judgement of an instance from before.
        upstream = SideUpstream(snapshot.definition.sides[Side.NEW], self._limits)
        try:
            async with asyncio.timeout(within_s):
                return await _ask(upstream, asked, operation, request)
        except (UpstreamError, RevokedError) as exc:
            return str(exc)
        except TimeoutError:
            return f"no answer within {within_s:g} s"
        finally:
            await upstream.aclose()


async def _ask(
    upstream: SideUpstream, asked: UpstreamRequest, operation: Operation, request: DrillRequest
) -> str | None:
    answer = await upstream.exchange(asked, request.key)
    try:
        listener = Listener(answer.status, answer.headers, operation.failure_codes, is_mcp=not operation.rest)
        while piece := await answer.read():
            listener.hear(piece)
    finally:
        answer.close()
    if answer.status >= _SERVER_ERROR:
        return f"status {answer.status}"
    return listener.failure()
