"""Where Redis clients are made. Bounded in time: no caller ever waits long for Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

CONNECT_TIMEOUT_S: Final = 0.5
CALL_TIMEOUT_S: Final = 1.0

REDIS_ERRORS: Final = (RedisError, OSError, TimeoutError)
"""What a call may raise when Redis is away, slow, read-only, full or loading."""

RedisClient = Redis


class _Shielded(Redis):
    """A client whose calls go on when nobody waits for them any more; pipelines are as in redis-py.

    One that is cut off in flight spoils its connection, and at the moment of its time limit it may take the
    cancellation with it: whoever ends the caller would wait for ever.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as redis-py's
        """As in redis-py, to its end."""
        call = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        return await asyncio.shield(call)


def connect(url: str, password_file: Path | None = None) -> RedisClient:
    """Makes a client; connects on first use.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        password_file: Holds the password, so that it stands in no URL and no argv.
    """
    password = password_file.read_text().strip() if password_file is not None else None
    return _Shielded.from_url(
        url,
        password=password or None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=CALL_TIMEOUT_S,
        # A call is never sent twice behind our back: no reply does not mean not done.
        retry=Retry(NoBackoff(), 0),
        max_connections=16,
        health_check_interval=0,
    )
