"""How fast sandboxes are made: so many a second begin, so many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_AT_ONCE: Final = 16


class Pace:
    """Turns, first come first served."""

    def __init__(self, per_s: float | None, at_once: int = _AT_ONCE) -> None:
        """Begins without a debt.

        Args:
            per_s: Turns that begin in a second; None = any number. They are spaced evenly: clouds count in windows.
            at_once: Turns that last at the same time.
        """
        self._gap_s = 1 / per_s if per_s else 0.0
        self._places = asyncio.Semaphore(at_once)
        self._order = asyncio.Lock()
        self._next = 0.0

    async def begin(self) -> None:
        """Returns when it is the caller's turn, which lasts until `end`."""
        await self._places.acquire()
        try:
            async with self._order:
                loop = asyncio.get_running_loop()
                await asyncio.sleep(max(0.0, self._next - loop.time()))
                self._next = loop.time() + self._gap_s
        except BaseException:
            self._places.release()
            raise

    def end(self) -> None:
        """The turn is over."""
        self._places.release()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn that lasts as long as the block."""
        await self.begin()
        try:
            yield
        finally:
            self.end()
