"""Evidence of differences in Redis: grouped, bounded, written behind by a timer, read in pages.

Counts here are for people who look; what decides is counted by each worker and added up.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

from gateway.core.compare.evidence import Found
from gateway.state.connect import REDIS_ERRORS, RedisClient
from gateway.state.keys import Keys

GROUPS: Final = 1000
"""Groups that are kept; the ones seen longest ago go first."""
KEPT_S: Final = 7 * 86_400
_REQUESTS: Final = 5
_BUFFERED: Final = 500

Document = dict[str, Any]


@dataclass
class _Buffered:
    """A group since it was last written."""

    what: Document
    first: float
    last: float
    counts: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class EvidenceStore:
    """Evidence of one migration. Implements `ports.EvidenceSink`."""

    def __init__(self, redis: RedisClient, migration: str) -> None:
        self._redis = redis
        self._keys = Keys(migration)
        self._buffer: dict[str, _Buffered] = {}

    def note(self, found: Found) -> None:
        """See `ports.EvidenceSink`."""
        signature = found.signature
        group = self._buffer.get(signature)
        if group is None:
            if len(self._buffer) >= _BUFFERED:
                return
            what = {
                "operation": found.operation,
                "differences": [difference.document() for difference in found.differences],
                "serving": found.serving,
                "rules": found.rules,
            }
            group = self._buffer[signature] = _Buffered(what, found.at, found.at)
        group.last = max(group.last, found.at)
        group.counts[found.finding] = group.counts.get(found.finding, 0) + 1
        if found.request_id not in group.requests:
            group.requests = [*group.requests, found.request_id][-_REQUESTS:]

    async def flush(self) -> None:
        """Writes what was noted. Where Redis is away it stays noted; after a lost answer it may count twice."""
        buffer, self._buffer = self._buffer, {}
        for signature, group in buffer.items():
            try:
                await self._write(signature, group)
            except REDIS_ERRORS:
                self._buffer.setdefault(signature, group)

    async def _write(self, signature: str, group: _Buffered) -> None:
        keys, key = self._keys, self._keys.evidence_of(signature)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping={"what": json.dumps(group.what), "requests": json.dumps(group.requests)})
            pipe.hsetnx(key, "first", str(group.first))
            pipe.hset(key, "last", str(group.last))
            for name, count in group.counts.items():
                pipe.hincrby(key, name, count)
            pipe.expire(key, KEPT_S)
            pipe.zadd(keys.evidence, {signature: group.last})
            pipe.zremrangebyrank(keys.evidence, 0, -GROUPS - 1)
            await pipe.execute()

    async def page(
        self, limit: int, cursor: str | None, operation: str | None = None
    ) -> tuple[list[Document], str | None]:
        """Groups, last seen first, and the cursor of the next page or None.

        Args:
            limit: Of groups.
            cursor: Of the page before, or None.
            operation: Of this operation alone, or None.

        Raises one of `connect.REDIS_ERRORS`.
        """
        found: list[Document] = []
        start = int(cursor) if cursor is not None else 0
        while len(found) < limit:
            names = cast("list[bytes]", await self._redis.zrevrange(self._keys.evidence, start, start + limit - 1))
            if not names:
                return found, None
            for signature in names:
                start += 1
                group = await self._read(signature.decode())
                if group is not None and operation in (None, group["operation"]):
                    found.append(group)
                    if len(found) == limit:
                        return found, str(start)
        return found, None

    async def _read(self, signature: str) -> Document | None:
        stored = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.evidence_of(signature)))
        with suppress(KeyError, ValueError):
            return {
                "signature": signature,
                **json.loads(stored[b"what"]),
                "suspected": int(stored.get(b"suspected", 0)),
                "mismatch": int(stored.get(b"mismatch", 0)),
                "refuted": int(stored.get(b"refuted", 0)),
                "first_seen": float(stored[b"first"]),
                "last_seen": float(stored[b"last"]),
                "request_ids": json.loads(stored[b"requests"]),
            }
        return None

    async def secret(self, fresh: bytes) -> bytes:
        """The key of the digests: the stored one, or `fresh`, which is stored if there is none.

        Raises one of `connect.REDIS_ERRORS`.
        """
        key = self._keys.evidence_secret
        await self._redis.set(key, fresh.hex(), nx=True)
        stored = cast("bytes | None", await self._redis.get(key))
        with suppress(ValueError, AttributeError):
            return bytes.fromhex((stored or b"").decode()) or fresh
        return fresh
