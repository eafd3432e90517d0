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

    Raises:
        Exception: Whatever the application raised, or the server's `receive`.
    """
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1)
    running = asyncio.ensure_future(application(messages.get))

    async def pump() -> None:
        while (message := await receive())["type"] != "http.disconnect":
            await messages.put(message)

    def end(_: asyncio.Future[None]) -> None:
        # The client left, or the server failed: either way nothing more comes, and whoever waits for it waits for ever.
        running.cancel()

    pumping = asyncio.ensure_future(pump())
    pumping.add_done_callback(end)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.wait([running])
        raise
    finally:
        failure = pumping.exception() if pumping.done() and not pumping.cancelled() else None
        has_left = pumping.done() and failure is None
        pumping.cancel()
    if not running.cancelled():
        running.result()
    elif failure is not None:
        raise failure
    elif not has_left:
        raise asyncio.CancelledError
