"""Drills in Redis: the order that workers follow, what they saw, and the reports that are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final, cast

from gateway.core.audit import AuditEntry
from gateway.core.drill import DrillOrder, WorkerNote
from gateway.core.model import Latch
from gateway.core.shared_clock import SharedClock
from gateway.state.codec import encode_latch
from gateway.state.connect import REDIS_ERRORS, RedisClient
from gateway.state.keys import Keys

HELD_S: Final = 6.0
"""A control process that has said nothing for so long has left its drill behind."""
_KEPT: Final = 100
_NOTES_KEPT_S: Final = 3600


class DrillStore:
    """Drills of one migration.

    Attributes:
        clock: The time by which all that take part in a drill go.
    """

    def __init__(self, redis: RedisClient, migration: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.clock = SharedClock(monotonic)
        self._redis = redis
        self._keys = Keys(migration)
        self._keep_trip, self._hold = (
            redis.register_script(files("gateway.state").joinpath(f"lua/{name}.lua").read_text())
            for name in ("keep_trip", "hold")
        )

    # --- for workers -----------------------------------------------------------------------------------------------

    async def order(self) -> tuple[bool, DrillOrder | None]:
        """Whether Redis could be asked, and the order that stands."""
        try:
            text = await self._look()
        except REDIS_ERRORS:
            return False, None
        if text is None:
            return True, None
        try:
            return True, DrillOrder.parse(text)
        except ValueError:
            return True, None

    async def _look(self) -> bytes | None:
        """The order as it stands, and the time, in one round trip."""
        asked_at = self.clock.monotonic()
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.get(self._keys.drill)
            (seconds, microseconds), text = await pipe.execute()
        self.clock.note(seconds + microseconds / 1e6, asked_at, self.clock.monotonic())
        return cast("bytes | None", text)

    async def note(self, drill: str, note: WorkerNote) -> None:
        """Tells what a worker saw; best effort."""
        key = self._keys.drill_notes(drill)
        with suppress(*REDIS_ERRORS):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hset(key, note.worker, json.dumps(asdict(note)))
                pipe.expire(key, _NOTES_KEPT_S)
                await pipe.execute()

    # --- for control; every method may raise one of `connect.REDIS_ERRORS` -----------------------------------------

    async def tell_time(self) -> None:
        """Brings the clock up to date."""
        await self._look()

    async def begin(self, order: DrillOrder) -> bool:
        """Gives an order; False while another one stands."""
        done = await self._redis.set(self._keys.drill, json.dumps(order.document()), px=self._lives_ms(order), nx=True)
        return bool(done)

    async def change(self, order: DrillOrder) -> None:
        """Replaces the order."""
        await self._redis.set(self._keys.drill, json.dumps(order.document()), px=self._lives_ms(order))

    def _lives_ms(self, order: DrillOrder) -> int:
        return max(1, int((order.ends_at - self.clock.now()) * 1000))

    async def end(self, drill: str) -> None:
        """Takes the order of a drill back; that of another one stands."""
        standing = (await self.order())[1]
        if standing is not None and standing.drill == drill:
            await self._redis.delete(self._keys.drill)

    async def take(self, drill: str, holder: str) -> bool:
        """Makes a process the one that runs a drill; False while another one does."""
        return bool(await self._redis.set(self._keys.drill_holder(drill), holder, px=int(1000 * HELD_S), nx=True))

    async def hold(self, drill: str, holder: str) -> bool:
        """Says that a drill's process is still there; False when it is not that one's any more."""
        return bool(await self._hold(keys=[self._keys.drill_holder(drill)], args=[holder, int(1000 * HELD_S)]))

    async def release(self, drill: str) -> None:
        """Takes a drill from whoever runs it."""
        await self._redis.delete(self._keys.drill_holder(drill))

    async def note_debt(self, about: str) -> bool:
        """Notes which debt is told; False when it was told before."""
        before = cast("bytes | None", await self._redis.set(self._keys.drill_debt, about, get=True))
        return before is None or before.decode() != about

    async def forget_debt(self) -> None:
        """The debt could not be told."""
        await self._redis.delete(self._keys.drill_debt)

    async def notes(self, drill: str) -> list[WorkerNote]:
        """What the workers saw so far, by name."""
        stored = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.drill_notes(drill)))
        found = []
        for _, text in sorted(stored.items()):
            with suppress(ValueError, TypeError):
                found.append(WorkerNote(**json.loads(text)))
        return found

    async def keep_trip(self, seen: Latch, kept: Latch, entry: AuditEntry) -> bool:
        """Puts another latch in the place of one of the same scope; False when that is not what stands there."""
        keys = self._keys
        done = await self._keep_trip(
            keys=[keys.policy, keys.audit],
            args=[str(seen.scope), encode_latch(seen), encode_latch(kept), keys.policy_changed, entry.dump()],
        )
        return bool(done)

    async def keep(self, report: dict[str, Any]) -> None:
        """Keeps a report, newest first, and forgets the oldest; one of the same drill is replaced."""
        reports = [known for known in await self.reports() if known.get("id") != report["id"]]
        await self._redis.set(self._keys.drill_reports, json.dumps([report, *reports][:_KEPT], separators=(",", ":")))

    async def reports(self) -> list[dict[str, Any]]:
        """All that are kept, newest first."""
        stored = cast("bytes | None", await self._redis.get(self._keys.drill_reports))
        try:
            found = json.loads(stored) if stored is not None else []
        except ValueError:
            return []
        return [report for report in found if isinstance(report, dict) and "id" in report]
