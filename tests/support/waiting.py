"""Waiting for something to become true: the only place in the tests that sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LIMIT_S = 20.0
"""Generous: machines are shared. A test that waits so long has failed."""


async def until(condition: Callable[[], object], what: str = "", limit_s: float = LIMIT_S) -> None:
    """Returns as soon as `condition()` is true.

    Raises:
        AssertionError: It never became true.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what or condition}"
        await asyncio.sleep(0.005)


async def until_async(condition: Callable[[], Awaitable[object]], what: str = "", limit_s: float = LIMIT_S) -> None:
    """As `until`, for a condition that must be awaited."""
    deadline = time.monotonic() + limit_s
    while not await condition():
        assert time.monotonic() < deadline, f"never happened: {what or condition}"
        await asyncio.sleep(0.02)
