"""The load of flips: reads and writes of the drill's keys, each as a client would send it, tried again while busy."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.control.drill.client import LoadClient, NoAnswerError
from gateway.core.chaos import ChaosCall, Judged, judge
from gateway.core.drill import Sample

_TICK_S: Final = 0.02
_AT_ONCE: Final = 500
_KEPT: Final = 250_000
_AGAIN_S: Final = 0.2
"""Between two tries of a call that found another one under way."""
_SIDES: Final = ("old", "new")


@dataclass(frozen=True, slots=True)
class Pace:
    """How a load is sent.

    Attributes:
        rate: Calls a second.
        patience_s: Longest time for which a call is tried again that has found another one under way.
    """

    rate: float
    patience_s: float


class ChaosLoad:
    """Sends until it is stopped.

    Attributes:
        samples: What came of it, in the order of the answers.
        sent: Calls that have ended.
        retried: Of them, tried again.
        failed: What failed, by operation and code.
    """

    def __init__(
        self, client: LoadClient, calls: Sequence[Sequence[ChaosCall]], pace: Pace, clock: Callable[[], float]
    ) -> None:
        """Sends nothing yet.

        Args:
            client: Of the data port.
            calls: Of each key; the first of them reads.
            pace: How fast, and how patiently.
            clock: Unix seconds.
        """
        self.samples: deque[Sample] = deque(maxlen=_KEPT)
        self.sent = 0
        self.retried = 0
        self.failed: Counter[str] = Counter()
        self._order = _mixed(calls)
        self._wanted = pace
        self._clock = clock
        self._client = client
        self._running: set[asyncio.Task[None]] = set()
        self._pacing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send."""
        self._pacing = asyncio.create_task(self._pace())

    async def drain(self, within_s: float) -> bool:
        """Sends nothing more, and waits for what is under way; whether all of it ended in time."""
        if self._pacing is not None:
            self._pacing.cancel()
            await asyncio.wait([self._pacing])
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=within_s)
        return not self._running

    async def stop(self) -> None:
        """Ends everything."""
        tasks = [*self._running, *([self._pacing] if self._pacing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._client.close()

    async def ask(self, call: ChaosCall) -> tuple[str, Judged, str]:
        """Sends a call once; returns who answered, what the answer is worth, and its code."""
        # Each try is a call of its own: what was refused because another one ran has not run.
        more = {"idempotency-key": f"{call.request.key[:60].replace('/', '-')}-{secrets.token_hex(8)}"}
        try:
            answer = await self._client.ask(call.request, more)
        except NoAnswerError:
            return "", *judge(None, b"")
        side = answer.headers.get(b"crossfade-side", b"").decode("latin-1")
        return side if side in _SIDES else "", *judge(answer.status, answer.body)

    async def _pace(self) -> None:
        begun, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begun) * self._wanted.rate)
            # What could not be sent in time is not made up for in one burst.
            sent = max(sent, due - max(1, int(self._wanted.rate)))
            while sent < due:
                sent += 1
                if len(self._running) < _AT_ONCE:
                    task = asyncio.create_task(self._carry_out(next(self._order)))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            await asyncio.sleep(_TICK_S)

    async def _carry_out(self, call: ChaosCall) -> None:
        first_at = sent_at = self._clock()
        side, judged, code = await self.ask(call)
        self.retried += judged is Judged.BUSY
        while judged is Judged.BUSY and self._clock() - first_at <= self._wanted.patience_s:
            await asyncio.sleep(_AGAIN_S)
            sent_at = self._clock()
            side, judged, code = await self.ask(call)
        is_failed = judged is not Judged.GOOD
        if is_failed:
            self.failed[f"{call.operation.name} {code}"] += 1
        self.sent += 1
        self.samples.append(Sample(sent_at, self._clock(), side, is_failed))


def _mixed(calls: Sequence[Sequence[ChaosCall]]) -> itertools.cycle[ChaosCall]:
    """Key after key; a read and a write of each in turn, the writes one after the other."""
    rounds = max(len(of_key) for of_key in calls)
    mixed: list[ChaosCall] = []
    for turn in range(max(1, rounds - 1)):
        mixed += [of_key[0] for of_key in calls]
        mixed += [of_key[1 + turn] for of_key in calls if len(of_key) > 1 + turn]
    return itertools.cycle(mixed)
