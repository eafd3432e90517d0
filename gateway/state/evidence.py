"""Evidence of differences in Redis: grouped, bounded, written behind by a timer, read in pages.

Counts here are for people who look; what decides is counted by each worker and added up.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from typing import Any, Final, cast

import structlog

from gateway.core.compare.evidence import Found
from gateway.state.connect import REDIS_ERRORS, RedisClient
from gateway.state.keys import Keys

GROUPS: Final = 1000
"""Groups that are kept; the ones seen longest ago go first."""
KEPT_S: Final = 7 * 86_400
BUFFERED: Final = 500
"""Groups that may wait to be written; what does not fit is dropped, and counted."""
LAST_FLUSH_S: Final = 1.5
_REQUESTS: Final = 5
_AT_ONCE: Final = 50
_MARK_S: Final = 86_400
_WRITER_BYTES: Final = 8

Document = dict[str, Any]

_log = structlog.get_logger("crossfade.state")


class Order(StrEnum):
    """How groups are listed."""

    LAST_SEEN = "last_seen"
    """Last seen first. One that is seen again while pages are read goes to the front."""
    SIGNATURE = "signature"
    """By name: nothing moves, so pages show every group that was there all the time, once."""


@dataclass
class _Buffered:
    """A group since it was last written."""

    what: Document
    first: float
    last: float
    counts: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def document(self, signature: str) -> str:
        """As the script takes it."""
        return json.dumps(
            {
                "signature": signature,
                "what": json.dumps(self.what),
                "first": repr(self.first),
                "last": repr(self.last),
                "counts": self.counts,
                "requests": self.requests,
            }
        )


class EvidenceStore:
    """Evidence of one migration. Implements `ports.EvidenceSink`.

    Attributes:
        dropped: Findings for which there was no place.
    """

    def __init__(self, redis: RedisClient, migration: str) -> None:
        self._redis = redis
        self._keys = Keys(migration)
        self._add = redis.register_script(files("gateway.state").joinpath("lua/note_evidence.lua").read_text())
        self._mark = self._keys.evidence_mark(secrets.token_hex(_WRITER_BYTES))
        self._buffer: dict[str, _Buffered] = {}
        # What was sent and not confirmed: sent again as it is, under the same number, it counts once.
        self._sent: dict[str, _Buffered] = {}
        self._number = 0
        self.dropped = 0

    @property
    def held(self) -> int:
        """Groups that are not known to be written."""
        return len(self._buffer) + len(self._sent)

    @property
    def is_writing(self) -> bool:
        """Whether groups were sent that nobody has confirmed."""
        return bool(self._sent)

    def note(self, found: Found) -> None:
        """See `ports.EvidenceSink`."""
        signature = found.signature
        group = self._buffer.get(signature)
        if group is None:
            if self.held >= BUFFERED:
                self.dropped += 1
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
        """Writes what was noted. Ends at the first error; the next flush goes on there. Not for two callers at once."""
        # Bounded: what is noted meanwhile can wait for the next one.
        for _ in range(BUFFERED // _AT_ONCE + 1):
            if not self._sent:
                self._cut()
            if not self._sent:
                return
            try:
                await self._write()
            except REDIS_ERRORS:
                return
            self._sent = {}

    async def aclose(self, limit_s: float = LAST_FLUSH_S) -> None:
        """Writes what is left, if Redis takes it in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.flush()
        if self.held:
            _log.warning("evidence_not_written", groups=self.held)

    def _cut(self) -> None:
        """Takes the groups that wait longest out of the buffer."""
        names = list(self._buffer)[:_AT_ONCE]
        self._sent = {name: self._buffer.pop(name) for name in names}
        self._number += 1

    async def _write(self) -> None:
        groups = [group.document(signature) for signature, group in self._sent.items()]
        await self._add(
            keys=[self._keys.evidence, self._mark],
            args=[self._number, _MARK_S, GROUPS, KEPT_S, _REQUESTS, *groups],
        )

    async def page(
        self, limit: int, cursor: str | None, operation: str | None = None, order: Order = Order.LAST_SEEN
    ) -> tuple[list[Document], str | None]:
        """Groups, and the cursor of the next page or None.

        Args:
            limit: Of groups.
            cursor: Of the page before, in the same order, or None.
            operation: Of this operation alone, or None.
            order: Of the groups.

        Raises one of `connect.REDIS_ERRORS`.
        """
        names = await self._names(order, cursor)
        found: list[Document] = []
        after: str | None = None
        for start in range(0, len(names), limit):
            part = names[start : start + limit]
            for (place, _), group in zip(part, await self._read([name for _, name in part]), strict=True):
                if group is None or operation not in (None, group["operation"]):
                    continue
                if len(found) == limit:
                    return found, after
                found.append(group)
                after = place
        return found, None

    async def _names(self, order: Order, cursor: str | None) -> list[tuple[str, str]]:
        """The groups behind a cursor: the place of each, which is a cursor too, and its signature."""
        stored = cast(
            "list[tuple[bytes, float]]", await self._redis.zrange(self._keys.evidence, 0, -1, withscores=True)
        )
        groups = [(name.decode(), last) for name, last in stored]
        if order is Order.SIGNATURE:
            return [(name, name) for name, _ in sorted(groups) if cursor is None or name > cursor]
        groups.sort(key=lambda group: (-group[1], group[0]))
        start = (0.0, "") if cursor is None else _place(cursor)
        return [(f"{last!r}-{name}", name) for name, last in groups if cursor is None or (-last, name) > start]

    async def _read(self, signatures: list[str]) -> list[Document | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for signature in signatures:
                pipe.hgetall(self._keys.evidence_of(signature))
            stored = cast("list[dict[bytes, bytes]]", await pipe.execute())
        return [_document(signature, group) for signature, group in zip(signatures, stored, strict=True)]

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


def _place(cursor: str) -> tuple[float, str]:
    last, _, name = cursor.rpartition("-")
    return -float(last), name


def _document(signature: str, stored: dict[bytes, bytes]) -> Document | None:
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
