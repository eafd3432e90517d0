"""Client disconnects under an ASGI server that is not ours.

`receive()` is the only way ASGI tells of one, so it is pumped beside the application and a disconnect cancels it. Our
own connection does this without a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]


class ClientGoneError(Exception):
    """The client left before its request was complete."""


async def watched(application: Callable[[Receive], Awaitable[None]], receive: Receive) -> None:
    """Runs an application and cancels it when the client disconnects.

    Args:
        application: Called with the `receive` it has to use.
        receive: The server's.
    """
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1)
    running = asyncio.ensure_future(application(messages.get))

    async def pump() -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                running.cancel()
                return
            await messages.put(message)

    pumping = asyncio.ensure_future(pump())
    try:
        await running
    except asyncio.CancelledError:
        if not pumping.done() or pumping.cancelled():
            # Cancelled from outside, not by the disconnect.
            running.cancel()
            raise
    finally:
        pumping.cancel()
