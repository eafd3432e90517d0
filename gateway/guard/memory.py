"""What outlives a worker: what its guard has learnt, and that others are gone. Behind the judging, never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from gateway.guard.ports import Exchange
from gateway.guard.watched import Watched

_EVERY_S: Final = 60.0
_AGAIN_S: Final = 1.0
"""Until what was learnt before is known."""


class Memory:
    """Recalls once what was learnt before a restart, and then keeps what is learnt."""

    def __init__(self, exchange: Exchange, watched: Callable[[], Mapping[str, Watched]]) -> None:
        """Knows nothing.

        Args:
            exchange: Keeps it.
            watched: Who learns, by name.
        """
        self._exchange = exchange
        self._watched = watched
        self._gone: set[str] = set()
        self._has_recalled = False
        self._next_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def recall_again(self) -> None:
        """There are others that learn."""
        self._has_recalled = False

    def tend(self, now: float, gone: Iterable[str]) -> None:
        """Does what is due; waits for nothing.

        Args:
            now: Seconds.
            gone: Workers that are.
        """
        self._gone.update(gone)
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            task.result()
        if now >= self._next_at or self._gone:
            self._next_at = now + (_EVERY_S if self._has_recalled else _AGAIN_S)
            self._task = asyncio.create_task(self._forget_and_recall_or_keep())

    async def _forget_and_recall_or_keep(self) -> None:
        gone, self._gone = self._gone, set()
        if gone:
            await self._exchange.forget(gone)
        watched = self._watched()
        if self._has_recalled:
            await self._exchange.keep({name: each.learnt() for name, each in watched.items()})
            return
        kept = await self._exchange.learnt()
        if kept is None:
            return
        self._has_recalled = True
        for name, each in self._watched().items():
            each.recall(kept.get(name))

    def close(self) -> None:
        """Ends what runs."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
