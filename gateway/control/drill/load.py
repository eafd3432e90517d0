"""The load of a drill: requests of its own, through the data port, at a steady rate, bounded in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from gateway.core.drill import DrillRequest, Sample
from gateway.core.model import Side

_TICK_S: Final = 0.02
_AT_ONCE: Final = 1000
_KEPT: Final = 200_000
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests for one side.

    Attributes:
        side: That is meant to answer.
        rate: Requests a second.
        requests: Sent in turn.
    """

    side: Side
    rate: float
    requests: Sequence[DrillRequest]


class Load:
    """Sends until it is stopped.

    Attributes:
        samples: What came of it, in the order of the answers.
        shed: Requests that were not sent: too many were under way.
    """

    def __init__(
        self, url: str, flows: Sequence[Flow], timeout_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Sends nothing yet.

        Args:
            url: Of the data port.
            flows: What to send.
            timeout_s: Longest wait for an answer.
            clock: Unix seconds.
        """
        self.samples: list[Sample] = []
        self.shed = 0
        self._flows = flows
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_s, pool=None),
            limits=httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=64),
            trust_env=False,
            # Its own data port, as the worker itself has named it; the name in a certificate is that of the clients.
            verify=False,  # noqa: S501 - no secret is sent
        )
        self._running: dict[asyncio.Task[None], float] = {}
        self._pacing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send."""
        self._pacing = asyncio.create_task(self._pace())

    def is_owed(self, *, since: float) -> bool:
        """Whether a request that was sent before some time still waits for its answer."""
        return any(sent_at < since for sent_at in self._running.values())

    async def stop(self) -> None:
        """Ends everything."""
        tasks = [*self._running, *([self._pacing] if self._pacing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _pace(self) -> None:
        begun, sent = time.monotonic(), [0] * len(self._flows)
        while len(self.samples) < _KEPT:
            passed = time.monotonic() - begun
            for index, flow in enumerate(self._flows):
                due = int(passed * flow.rate)
                # What could not be sent in time is not made up for in one burst.
                sent[index] = max(sent[index], due - max(1, int(flow.rate)))
                while sent[index] < due:
                    self._send(flow.requests[sent[index] % len(flow.requests)])
                    sent[index] += 1
            await asyncio.sleep(_TICK_S)

    def _send(self, request: DrillRequest) -> None:
        if len(self._running) >= _AT_ONCE:
            self.shed += 1
            return
        task: asyncio.Task[None] = asyncio.create_task(self._ask(request))
        self._running[task] = self._clock()
        task.add_done_callback(lambda done: self._running.pop(done, None))

    async def _ask(self, request: DrillRequest) -> None:
        sent_at = self._clock()
        side, is_failed = "", True
        try:
            answer = await self._client.request(
                request.method, request.path, headers=dict(request.headers), content=request.body or None
            )
            side = answer.headers.get("crossfade-side", "")
            is_failed = answer.status_code >= _SERVER_ERROR
        except httpx.HTTPError:
            pass
        self.samples.append(Sample(sent_at, self._clock(), side if side in ("old", "new") else "", is_failed))
