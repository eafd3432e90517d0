"""The policy in Redis: read, compare-and-set, kill, audit.

Owns what is stored and how it changes atomically. It must not know why something changes; the rules are in
core/changes.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final, cast

from gateway.core.audit import AuditEntry
from gateway.core.detect.record import with_parts
from gateway.core.model import Epoch, Latch, Policy, Scope
from gateway.errors import PolicyAbsentError, StaleEpochError
from gateway.state.codec import CodecError, decode_fields, decode_policy, encode_body, encode_latch, encode_policy
from gateway.state.connect import RedisClient
from gateway.state.keys import Keys

AUDIT_PAGE_LIMIT: Final = 500
OFFERS_LIFE_S: Final = 30
SHOUT_S: Final = 10
STRAYS_LIMIT: Final = 10
TRIPS_KEPT: Final = 200
PARTS_KEPT_S: Final = 90 * 86_400
TOLD_FOR_S: Final = 600
SIGNATURES_KEPT_S: Final = 900
_SCAN_STEP: Final = 1000

Fields = dict[bytes, bytes]
"""A hash as Redis gives it."""


class PolicyStore:
    """One migration's policy in Redis.

    Every method raises one of `connect.REDIS_ERRORS` when Redis cannot be asked.
    """

    def __init__(self, redis: RedisClient, migration: str) -> None:
        self.redis = redis
        self.keys = Keys(migration)
        self._scripts = {
            name: redis.register_script(files("gateway.state").joinpath(f"lua/{name}.lua").read_text())
            for name in ("boot", "change", "kill", "restore", "tell")
        }

    async def read(self) -> Policy | None:
        """The stored policy, or None when there is none.

        Raises:
            CodecError: What is stored is damaged.
        """
        fields = cast("Fields", await self.redis.hgetall(self.keys.policy))
        return decode_fields(self.keys.migration, fields) if fields else None

    async def look(self, scopes: Sequence[Scope]) -> tuple[Fields, dict[Scope, bytes]]:
        """One round trip: the policy hash as it stands, undecoded, and the break-glass keys that are set.

        Args:
            scopes: Which break-glass keys to look at; at least one.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hgetall(self.keys.policy)
        keys = [self.keys.break_glass(scope) for scope in scopes]
        pipeline.mget(keys)
        for key in keys:
            pipeline.exists(key)
        fields, values, *set_keys = await pipeline.execute()
        # Whoever makes it a list or a hash in a hurry means it as well; MGET sees only strings.
        return fields, {
            scope: value or b"" for scope, value, is_set in zip(scopes, values, set_keys, strict=True) if is_set
        }

    async def stray_break_glass(self, scopes: Iterable[Scope]) -> list[bytes]:
        """The break-glass keys of other scopes than these, as far as an operator can take them in.

        Walks all keys of the database, in steps: not for the way of a request.
        """
        known = {self.keys.break_glass(scope).encode() for scope in scopes}
        found: set[bytes] = set()
        # The name of a migration holds nothing that a pattern would read as its own.
        async for key in self.redis.scan_iter(match=f"{self.keys.break_glass_prefix}*", count=_SCAN_STEP):
            if key not in known:
                found.add(key)
            if len(found) == STRAYS_LIMIT:
                break
        return sorted(found)

    async def offer(self, process: str, policy: Policy) -> None:
        """Lays down what this process remembers, for the control process to find."""
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.hset(self.keys.offers, process, encode_policy(policy))
        pipeline.expire(self.keys.offers, OFFERS_LIFE_S)
        await pipeline.execute()

    async def offers(self) -> list[Policy]:
        """What processes remember; damaged offers are left out."""
        found = []
        for text in cast("Fields", await self.redis.hgetall(self.keys.offers)).values():
            with suppress(CodecError):
                found.append(decode_policy(text))
        return found

    async def clear_offers(self) -> None:
        """Forgets all offers."""
        await self.redis.delete(self.keys.offers)

    async def boot(self, policy: Policy, entry: AuditEntry) -> bool:
        """Writes the first policy; False when there is one already."""
        answer = await self._run("boot", policy.lineage, policy.epoch, encode_body(policy), entry=entry)
        return bool(answer[0] == b"OK")

    async def change(self, before: Policy, after: Policy, entry: AuditEntry) -> Policy:
        """Replaces `before` by `after`, latches that `after` lacks included. Returns it with its new epoch.

        Raises:
            StaleEpochError: The stored policy is not `before` any more.
            PolicyAbsentError: There is none.
        """
        rearmed = [str(scope) for scope in before.latches if scope not in after.latches]
        answer = await self._run("change", before.lineage, before.epoch, encode_body(after), entry=entry, more=rearmed)
        if answer[0] == b"STALE":
            raise StaleEpochError(int(answer[1]))
        return replace(after, epoch=self._epoch(answer))

    async def kill(self, latch: Latch, entry: AuditEntry, record: str = "") -> Epoch:
        """Latches a scope; returns the epoch. A repeated kill changes nothing.

        Args:
            latch: What to latch.
            entry: For the audit.
            record: JSON of what a detector saw; kept with the latch that it made, in one step.

        Raises:
            PolicyAbsentError: There is no policy to latch.
        """
        keys, script = self.keys, self._scripts["kill"]
        answer = await script(
            keys=[keys.policy, keys.audit, keys.trips],
            args=[str(latch.scope), encode_latch(latch), keys.policy_changed, entry.dump(), record, TRIPS_KEPT],
        )
        return self._epoch(answer)

    async def restore(self, policy: Policy, entry: AuditEntry, *, over: str = "") -> bool:
        """Writes back a remembered policy; False when Redis holds one that is not older, or of another lineage.

        Args:
            policy: What to write, its epoch and latches included.
            entry: For the audit.
            over: A foreign lineage that may be overwritten: an operator has looked at it and said so.
        """
        latches = [text for scope, latch in policy.latches.items() for text in (str(scope), encode_latch(latch))]
        answer = await self._run(
            "restore", policy.lineage, policy.epoch, encode_body(policy), entry=entry, more=[over, *latches]
        )
        return bool(answer[0] == b"OK")

    async def shout(self, latch: Latch) -> None:
        """Sets the break-glass key of a scope for a moment: every feed sees it, even where there is no policy."""
        await self.redis.set(self.keys.break_glass(latch.scope), latch.reason, ex=SHOUT_S)

    async def is_first(self, signature: str) -> bool:
        """Whether a signature was not seen before."""
        return bool(await self.redis.set(self.keys.signature(signature), b"1", ex=SIGNATURES_KEPT_S, nx=True))

    async def trips(self) -> list[dict[str, Any]]:
        """Records of trips with what all workers saw, newest first; what is damaged is left out."""
        records = []
        for text in cast("list[bytes]", await self.redis.lrange(self.keys.trips, 0, TRIPS_KEPT - 1)):
            with suppress(ValueError):
                record = json.loads(text)
                if isinstance(record, dict) and "id" in record:
                    records.append(record)
        pipeline = self.redis.pipeline(transaction=False)
        for record in records:
            pipeline.hvals(self.keys.trip_parts(str(record["id"])))
        found = []
        for record, texts in zip(records, await pipeline.execute() if records else [], strict=True):
            whole = record
            for text in texts:
                with suppress(ValueError, KeyError, TypeError):
                    whole = with_parts(whole, [json.loads(text)])
            found.append(whole)
        return found

    async def add_part(self, trip: str, worker: str, part: str) -> None:
        """Adds what a worker saw to the record of a trip that another one made."""
        key = self.keys.trip_parts(trip)
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.hset(key, worker, part)
        pipeline.expire(key, PARTS_KEPT_S)
        await pipeline.execute()

    async def record(self, entry: AuditEntry) -> None:
        """Adds an audit entry for something that changed no policy."""
        await self.redis.xadd(self.keys.audit, {"entry": entry.dump()}, maxlen=100_000, approximate=True)

    async def tell(self, entry: AuditEntry, record: str) -> None:
        """Adds an audit entry and a trip's record, unless the same was told of the same target a while ago."""
        keys = self.keys
        await self._scripts["tell"](
            keys=[keys.told(entry.action, entry.target), keys.audit, keys.trips],
            args=[entry.at, TOLD_FOR_S, entry.dump(), record, TRIPS_KEPT],
        )

    async def audit(self, limit: int, cursor: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
        """Audit entries, newest first.

        Args:
            limit: At most this many, 1-500.
            cursor: What the previous page returned.

        Returns:
            The entries, and the cursor of the next page or None.
        """
        newest = f"({cursor}" if cursor else "+"
        found = await self.redis.xrevrange(self.keys.audit, max=newest, count=min(limit, AUDIT_PAGE_LIMIT) + 1)
        rows = cast("list[tuple[bytes, Fields]]", found)
        items: list[dict[str, Any]] = []
        for identifier, fields in rows[:limit]:
            epoch = fields.get(b"epoch")
            entry = json.loads(fields[b"entry"])
            items.append({"id": identifier.decode(), "epoch": int(epoch) if epoch else None, **entry})
        return items, items[-1]["id"] if len(rows) > limit else None

    async def _run(
        self, name: str, lineage: str, epoch: int, body: str, *, entry: AuditEntry, more: Sequence[str] = ()
    ) -> list[Any]:
        answer: list[Any] = await self._scripts[name](
            keys=[self.keys.policy, self.keys.audit],
            args=[lineage, epoch, body, self.keys.policy_changed, entry.dump(), *more],
        )
        return answer

    def _epoch(self, answer: list[Any]) -> Epoch:
        if answer[0] == b"ABSENT":
            raise PolicyAbsentError(f"Redis holds no policy of {self.keys.migration}")
        return Epoch(int(answer[1]))
