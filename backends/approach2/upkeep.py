"""What a service does again and again in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from backends.common import metrics
from backends.common.errors import ServiceError

_PAUSE_S: Final = 1.0
"""After a failure."""

_log = structlog.get_logger("crossfade.approach2")


async def forever(name: str, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Does something again and again. Whatever it fails of is told, and it is done again."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            await work()
        except ServiceError as exc:
            _log.warning("pool_task_failed", task=name, why=exc.message)
        except Exception:
            _log.exception("pool_task_failed", task=name)
        else:
            continue
        metrics.POOL_TASK_FAILURES.labels(task=name).inc()
        await asyncio.sleep(_PAUSE_S)
