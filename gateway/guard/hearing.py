"""What this worker and the others counted since the last look, whatever Redis does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from gateway.core.detect.reports import Heard, Report, Said
from gateway.guard.merging import Fresh, Merge
from gateway.guard.ports import Exchange
from gateway.ports import Clock

OWN: Final = "(own)"
"""Names this process where processes are told apart."""


class Hearing:
    """What this worker counted comes from itself; what the others did is added when it comes.

    Attributes:
        is_alone: Whether nobody else was heard at the last look.
    """

    def __init__(self, exchange: Exchange, clock: Clock, late_s: float) -> None:
        """Has heard nothing.

        Args:
            exchange: With the others.
            clock: Monotonic seconds.
            late_s: How long a look waits for the others.
        """
        self.is_alone = False
        self._exchange = exchange
        self._clock = clock
        self._late_s = late_s
        self._own, self._others = Merge(is_own=True), Merge()
        self._seq = 0
        self._asked: asyncio.Task[Heard | None] | None = None

    async def take(self, said: Said) -> tuple[Fresh, list[Heard]]:
        """Says what this worker counted; returns what is new on all, and what the others said."""
        self._seq += 1
        fresh = self._own.take({OWN: Report(self._seq, said.signals)}, self._clock())
        answers = await self._ask(said)
        now = self._clock()
        for heard in answers:
            self._others.take(heard.reports, now, fresh, heard.unreadable)
        self.is_alone = not answers
        return fresh, answers

    async def _ask(self, said: Said) -> list[Heard]:
        """What the others said; nothing where nobody can be asked, or the answer is late.

        A call that is late is left to itself: it is taken up at the look that finds it done.
        """
        answers = self._answer()
        if self._asked is None:
            self._asked = asyncio.create_task(self._exchange.swap(said))
            await asyncio.wait({self._asked}, timeout=self._late_s)
            answers += self._answer()
        return answers

    def _answer(self) -> list[Heard]:
        if self._asked is None or not self._asked.done():
            return []
        task, self._asked = self._asked, None
        heard = task.result()
        return [] if heard is None else [heard]

    def hanging(self, operation: str) -> tuple[int, int]:
        """How many requests hang on the other workers, of new and of old."""
        return (0, 0) if self.is_alone else self._others.hanging(operation, self._clock())

    @property
    def known(self) -> int:
        """How many workers there are, as far as is known."""
        return 1 if self.is_alone else self._others.known + 1

    @property
    def blind(self) -> int:
        """How many of them are silent."""
        return 0 if self.is_alone else self._others.blind(self._clock())

    @property
    def processes(self) -> Collection[str]:
        """Who was heard lately, this one included."""
        return {OWN, *self._others.processes}

    def forget(self) -> list[str]:
        """Forgets workers that are gone, and names them; while nobody is heard, nobody is gone."""
        return [] if self.is_alone else self._others.forget(self._clock())

    def close(self) -> None:
        """Waits for nobody any more."""
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
