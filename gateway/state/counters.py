"""What every worker counted, in Redis, for whoever shows it. A convenience: nothing decides by it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

from gateway.state.connect import REDIS_ERRORS, RedisClient
from gateway.state.keys import Keys

FORGET_AFTER_S: Final = 120.0
"""A worker that has said nothing for so long is gone."""


class CounterStore:
    """Counters of one migration's workers.

    Each blob is cumulative, so a lost publication loses nothing.
    """

    def __init__(self, redis: RedisClient, migration: str) -> None:
        self._redis = redis
        self._key = Keys(migration).counters
        self._noise_key = Keys(migration).noise_counts
        self._sending: asyncio.Task[None] | None = None

    def publish(self, worker: str, blob: Mapping[str, Any]) -> bool:
        """Sends a blob in the background; False when the previous one is still on its way: Redis is slow."""
        if self._sending is not None and not self._sending.done():
            return False
        self._sending = asyncio.create_task(self._send(worker, json.dumps(blob, separators=(",", ":"))))
        return True

    async def publish_noise(self, worker: str, incarnation: str, operation: str, noise: Mapping[str, Any]) -> None:
        """Lays down what a worker saw of an operation's noise; apart, since it is large and seldom changes.

        Raises one of `connect.REDIS_ERRORS`.
        """
        text = json.dumps({"incarnation": incarnation, "noise": noise}, separators=(",", ":"))
        await self._redis.hset(self._noise_key, f"{worker} {operation}", text)

    async def read_all(self) -> dict[str, dict[str, Any]]:
        """The latest blob of each worker, with its `noise` by operation. Those of workers long gone are removed.

        Raises one of `connect.REDIS_ERRORS` when Redis cannot be asked.
        """
        stored = cast("dict[bytes, bytes]", await self._redis.hgetall(self._key))
        blobs: dict[str, dict[str, Any]] = {}
        gone = []
        for field, text in stored.items():
            with suppress(ValueError, TypeError, AttributeError):
                blob = json.loads(text)
                if time.time() - float(blob.get("at", 0)) > FORGET_AFTER_S:
                    gone.append(field)
                    continue
                blobs[field.decode()] = blob
        if gone:
            await self._redis.hdel(self._key, *[field.decode() for field in gone])
        await self._add_noise(blobs)
        return blobs

    async def _add_noise(self, blobs: Mapping[str, dict[str, Any]]) -> None:
        stored = cast("dict[bytes, bytes]", await self._redis.hgetall(self._noise_key))
        gone = []
        for field, text in stored.items():
            worker, _, operation = field.decode().partition(" ")
            if worker not in blobs:
                gone.append(field.decode())
                continue
            with suppress(ValueError, TypeError, KeyError):
                said = json.loads(text)
                # Of the process before this one, until this one has seen some.
                if said["incarnation"] == blobs[worker].get("incarnation"):
                    blobs[worker].setdefault("noise", {})[operation] = said["noise"]
        if gone:
            await self._redis.hdel(self._noise_key, *gone)

    async def aclose(self) -> None:
        """Waits for the last publication."""
        if self._sending is not None:
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self, worker: str, blob: str) -> None:
        with suppress(*REDIS_ERRORS):
            await self._redis.hset(self._key, worker, blob)
