"""What workers tell each other four times a second: cumulative counts, one field for each process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

from gateway.state.connect import REDIS_ERRORS, RedisClient
from gateway.state.keys import Keys

_KEPT_S: Final = 600


class SignalStore:
    """Signals of one migration's workers.

    Attributes:
        process: Names this process.
    """

    def __init__(self, redis: RedisClient, migration: str, process: str) -> None:
        """Says nothing yet.

        Args:
            redis: The client.
            migration: Its name.
            process: Names this process, and no other that ever ran.
        """
        self._redis = redis
        self._keys = Keys(migration)
        self.process = process
        self._seq = 0

    async def swap(
        self, signals: Mapping[str, list[int]], histograms: Mapping[str, Any] | None
    ) -> tuple[dict[str, tuple[int, Any]], dict[str, Any] | None] | None:
        """Says what this process counted; returns what all did, or None where Redis does not answer."""
        self._seq += 1
        keys = self._keys
        try:
            # Bounded by the client's own time limits: a call that is cut off would spoil its connection.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hset(keys.signals, self.process, json.dumps([self._seq, signals], separators=(",", ":")))
                pipe.hgetall(keys.signals)
                pipe.expire(keys.signals, _KEPT_S)
                if histograms is not None:
                    pipe.hset(keys.histograms, self.process, json.dumps(histograms, separators=(",", ":")))
                    pipe.hgetall(keys.histograms)
                    pipe.expire(keys.histograms, _KEPT_S)
                answers = await pipe.execute()
        except REDIS_ERRORS:
            return None
        heard: dict[str, tuple[int, Any]] = {}
        for name, text in cast("dict[bytes, bytes]", answers[1]).items():
            with suppress(ValueError, TypeError):
                seq, counts = json.loads(text)
                heard[name.decode()] = (int(seq), counts)
        if histograms is None:
            return heard, None
        merged: dict[str, Any] = {}
        for name, text in cast("dict[bytes, bytes]", answers[4]).items():
            with suppress(ValueError):
                merged[name.decode()] = json.loads(text)
        return heard, merged

    async def forget(self, names: Iterable[str]) -> None:
        """Processes are gone."""
        gone = list(names)
        with suppress(*REDIS_ERRORS):
            await self._redis.hdel(self._keys.signals, *gone)
            await self._redis.hdel(self._keys.histograms, *gone)
