"""The load of a drill: requests of its own, through the data port, at a steady rate, bounded in every way."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.control.drill.client import LoadClient, NoAnswerError
from gateway.core.drill import DrillRequest, Sample
from gateway.core.model import Side

_TICK_S: Final = 0.02
_AT_ONCE: Final = 1000
_KEPT: Final = 250_000
"""Samples that are kept: the last three minutes at the highest rate, longer than a fault lasts."""
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
        samples: What came of it, in the order of the answers; of a long load the last of them.
        sent: Requests that were answered, or failed.
        failed: Of them, failures.
        shed: Requests that were not sent: too many were under way.
    """

    def __init__(self, url: str, flows: Sequence[Flow], timeout_s: float, clock: Callable[[], float]) -> None:
        """Sends nothing yet.

        Args:
            url: Of the data port.
            flows: What to send.
            timeout_s: Longest wait for an answer.
            clock: Unix seconds.
        """
        self.samples: deque[Sample] = deque(maxlen=_KEPT)
        self.sent = 0
        self.failed = 0
        self.shed = 0
        self._flows = flows
        self._clock = clock
        self._client = LoadClient(url, timeout_s)
        self._running: dict[asyncio.Task[None], float] = {}
        self._pacing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send."""
        self._pacing = asyncio.create_task(self._pace())

    def is_well(self, *, since: int, answers: int) -> bool:
        """Whether the last answers were good.

        Args:
            since: Only those after so many were sent count.
            answers: How many must be good.
        """
        if self.sent - since < answers:
            return False
        return not any(self.samples[-1 - at].is_failed for at in range(answers))

    def is_owed(self, *, since: float) -> bool:
        """Whether a request that was sent before some time still waits for its answer."""
        return any(sent_at < since for sent_at in self._running.values())

    async def stop(self) -> None:
        """Ends everything."""
        tasks = [*self._running, *([self._pacing] if self._pacing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._client.close()

    async def _pace(self) -> None:
        begun, sent = time.monotonic(), [0] * len(self._flows)
        while True:
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
            answer = await self._client.ask(request)
            side = answer.headers.get(b"crossfade-side", b"").decode("latin-1")
            is_failed = answer.status >= _SERVER_ERROR
        except NoAnswerError:
            pass
        self.sent += 1
        self.failed += is_failed
        self.samples.append(Sample(sent_at, self._clock(), side if side in ("old", "new") else "", is_failed))
