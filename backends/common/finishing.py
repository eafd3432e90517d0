"""Work that must not be left half done, however often whoever awaits it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Awaits work to its end. A cancellation meanwhile is raised after it.

    What follows a cancelled operation, the next writer first of all, must not meet what the operation still does: a
    thread cannot be cancelled, and a deadline and a client that leaves may cancel twice.
    """
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        running.exception()  # marks it as seen
    raise cancelled
