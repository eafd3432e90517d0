"""The feed: keeps one process's snapshot in step with the policy in Redis, and safe when Redis is not there.

Redis is read on every hint of a change and twice a second; nobody who uses `current` ever waits for it. Kills that
stand outside the policy (break-glass keys, the KILL file, local trips) act at once and are then made part of it. What
to believe when Redis forgets or contradicts is decided by core/unite.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.core.audit import AuditEntry
from gateway.core.feed_status import FeedState, FeedStatus
from gateway.core.model import SCOPE_ALL, Definition, Epoch, Latch, LatchKind, Policy, Scope, ScopeKind
from gateway.core.plain_text import one_line
from gateway.core.snapshot import Snapshot, SnapshotOrigin, compile_snapshot
from gateway.core.unite import Verdict, judge, unite
from gateway.errors import PolicyAbsentError
from gateway.state.codec import CodecError, decode_fields
from gateway.state.connect import REDIS_ERRORS
from gateway.state.kill_file import KillNote, read_kill_file
from gateway.state.policy_store import Fields, PolicyStore
from gateway.state.snapshot_file import Remembered, SnapshotFile

_JITTER: Final = 0.1
_RETRY_FIRST_S: Final = 0.05
_RETRY_LAST_S: Final = 1.0
_REASON_LIMIT: Final = 500
_LOG_EVERY_S: Final = 30.0
_LISTEN_S: Final = 30.0
_UNTOLD: Final = 100
_LOST: Final = "Redis holds no policy any more; the last known one stays in force"
_FOREIGN: Final = (
    "Redis holds a policy of another lineage; the last known one stays in force "
    "(crossfade apply --restore puts it back; with its policy file removed, a restart takes Redis's)"
)

_log = structlog.get_logger("crossfade.state")


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Rhythm of a feed, in seconds.

    Attributes:
        process: Name of this process, for the audit and for offers.
        poll_s: Between two reads, +/- 10 %.
        stale_s: Without a successful read for so long, the snapshot is stale.
        kill_file_s: Between two looks at the KILL file.
    """

    process: str
    poll_s: float = 0.5
    stale_s: float = 3.0
    kill_file_s: float = 0.25


class PolicyFeed:
    """One process's view of the policy.

    Attributes:
        current: The snapshot in force; replaced by one assignment, never changed. None before the first.
    """

    def __init__(
        self, store: PolicyStore, definition: Definition, data_dir: Path, file: SnapshotFile, settings: FeedSettings
    ) -> None:
        self.current: Snapshot | None = None
        self._store = store
        self._definition = definition
        self._data_dir = data_dir
        self._file = file
        self._settings = settings
        self._scopes = _break_glass_scopes(definition)
        self._policy: Policy | None = None
        self._origin = SnapshotOrigin.REDIS
        self._external: dict[Scope, Latch] = {}
        self._records: dict[Scope, str] = {}
        self._untold: deque[Callable[[], Awaitable[None]]] = deque(maxlen=_UNTOLD)
        self._stored_at: dict[Scope, int] = {}
        self._keys_set: frozenset[Scope] = frozenset()
        self._kill_note: KillNote | None = None
        self._raw: Fields | None = None
        self._read_at: float | None = None
        self._redis_epoch: int | None = None
        self._why: str | None = None
        self._stale = False
        self._unsaved: Remembered | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._read_now = asyncio.Event()
        self._store_now = asyncio.Event()
        self._save_now = asyncio.Event()
        self._first_read = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._said: dict[str, float] = {}

    # --- what others use -------------------------------------------------------------------------------------------

    @property
    def held_break_glass(self) -> frozenset[Scope]:
        """Scopes whose break-glass key or file is still there: re-arming them would not last."""
        return self._keys_set | ({self._kill_note.scope} if self._kill_note else set())

    @property
    def break_glass_scopes(self) -> Sequence[Scope]:
        """Scopes that a break-glass key may name."""
        return self._scopes

    @property
    def definition(self) -> Definition:
        """The definition in force."""
        return self._definition

    def remembered(self) -> Remembered | None:
        """What this process would put back if Redis lost it, or None."""
        return Remembered(self._policy, dict(self._external)) if self._policy else None

    def status(self) -> FeedStatus:
        """How it stands now."""
        age = None if self._read_at is None else time.monotonic() - self._read_at
        if self._stale or self._policy is None:
            state, why = FeedState.STALE, self._why or "the policy in Redis cannot be read"
        elif self._why:
            state, why = FeedState.DEGRADED, self._why
        else:
            state, why = FeedState.OK, None
        origin = self._origin if self._policy else None
        return FeedStatus(state, why, age, self._redis_epoch, origin)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Calls back, on the loop, after each replacement of `current`."""
        self._callbacks.append(callback)

    def refresh_soon(self) -> None:
        """Reads Redis again without waiting for the poll."""
        self._read_now.set()

    def kill_locally(self, latch: Latch) -> None:
        """Latches at once in this process, then in the policy as soon as Redis takes it."""
        if latch.scope in self._external or (self._policy is not None and latch.scope in self._policy.latches):
            return
        self._external[latch.scope] = latch
        _log.warning("kill", scope=str(latch.scope), by=latch.by, reason=latch.reason)
        self._compile()
        self._store_now.set()

    def keep_record(self, latch: Latch, record: str) -> None:
        """Keeps what a detector saw, with its latch: right after `kill_locally`, before anything else runs.

        Args:
            latch: Which names the record.
            record: JSON. It is gone if this process ends before Redis took it.
        """
        if self._external.get(latch.scope) == latch:
            self._records[latch.scope] = record

    def tell(self, entry: AuditEntry, record: str) -> None:
        """Notes in the audit, once for all processes and ten minutes, what changed nothing, as soon as Redis takes it.

        Args:
            entry: Its action and target say whether it was noted before.
            record: JSON of what a detector saw.
        """
        self._untold.append(lambda: self._store.tell(entry, record))
        self._store_now.set()

    def _tell_record(self, latch: Latch, record: str) -> None:
        async def tell() -> None:
            await self._store.kill(latch, self._audit(latch), record)

        self._untold.append(tell)
        self._store_now.set()

    def add_part(self, trip: str, part: str) -> None:
        """Adds what this process saw to the record of a trip that another one made, as soon as Redis takes it."""
        self._untold.append(lambda: self._store.add_part(trip, self._settings.process, part))
        self._store_now.set()

    async def kill(self, latch: Latch, entry: AuditEntry) -> Epoch | None:
        """Latches in the policy; where Redis has lost that, in every process that still remembers one.

        Returns:
            The epoch, or None when there is no policy to take the kill.

        Raises one of `connect.REDIS_ERRORS` when Redis cannot be asked.
        """
        try:
            epoch = await asyncio.shield(self._store.kill(latch, entry))
        except PolicyAbsentError:
            self.kill_locally(latch)
            await asyncio.shield(self._store.shout(latch))
            return self.current.epoch if self.current else None
        self._read_now.set()
        return epoch

    def replace_definition(self, definition: Definition) -> None:
        """Decides by another definition from now on."""
        self._definition = definition
        self._scopes = _break_glass_scopes(definition)
        self._compile(reuse_router=False)

    async def start(self) -> None:
        """Begins to follow Redis; returns after the first read or its failure (`current` is from disk then)."""
        remembered = await asyncio.to_thread(self._read_file)
        if remembered is not None:
            self._policy, self._origin = remembered.policy, SnapshotOrigin.DISK
            self._external = dict(remembered.external)
        self._note_kill_file(await asyncio.to_thread(read_kill_file, self._data_dir, self._definition))
        following = (self._follow, self._listen, self._watch_file, self._watch_age, self._store_latches, self._save)
        self._tasks = [asyncio.create_task(self._keep(task), name=f"feed.{task.__name__}") for task in following]
        await self._first_read.wait()

    async def aclose(self) -> None:
        """Stops following. What is not on disk yet is written first."""
        self._stopping = True
        self._read_now.set()
        self._save_now.set()
        following, *others = self._tasks
        # A call to Redis is never cancelled: its own time limits end it.
        await asyncio.wait([following], timeout=5)
        for task in (following, *others):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._unsaved is not None:
            with suppress(OSError):
                await asyncio.to_thread(self._file.write, self._unsaved)

    async def _keep(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a part of the feed, again if it fails: a fault of ours must not freeze what a process decides by."""
        while not self._stopping:
            try:
                await task()
            except Exception:
                _log.exception("feed_failed", task=task.__name__)
                self._first_read.set()
                await asyncio.sleep(_RETRY_LAST_S)

    # --- reading Redis ---------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while not self._stopping:
            self._read_now.clear()
            await self._read()
            self._first_read.set()
            pause = self._settings.poll_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load
            with suppress(TimeoutError):
                await asyncio.wait_for(self._read_now.wait(), pause)

    async def _read(self) -> None:
        try:
            fields, keys = await self._store.look(self._scopes)
        except REDIS_ERRORS as exc:
            self._say("redis_unreachable", why=type(exc).__name__)
            if self.current is None:
                self._compile()
            return
        changed = self._take(fields)
        # After the policy: a scope re-armed while its key or file is still there must not be open for a moment.
        changed |= self._note_keys(keys)
        changed |= self._note_kill_file(self._kill_note)
        if changed or self.current is None:
            self._compile()
        if self._why is not None and self._policy is not None and self._origin is SnapshotOrigin.REDIS:
            await self._offer(self._policy)

    def _take(self, fields: Fields) -> bool:
        """Takes what was read. Returns whether the snapshot must be compiled anew."""
        if fields == self._raw and self._why is None:
            changed = False
        else:
            try:
                seen = decode_fields(self._definition.migration, fields) if fields else None
            except CodecError as exc:
                self._set_trouble(f"{exc}; the last known policy stays in force")
                return False
            changed = self._consider(seen)
            self._raw = fields
        self._read_at = time.monotonic()
        was_stale, self._stale = self._stale, False
        return changed or was_stale

    def _consider(self, seen: Policy | None) -> bool:
        """Takes over what Redis says, or does not. Returns whether the policy or the external kills changed."""
        known = self._policy
        self._redis_epoch = None if seen is None else seen.epoch
        if seen is None:
            if known is not None:
                self._set_trouble(_LOST)
            return False
        match judge(known, seen):
            case Verdict.SAME:
                self._set_trouble(None)
                returned, self._origin = self._origin is SnapshotOrigin.DISK, SnapshotOrigin.REDIS
                return returned
            case Verdict.ADOPT:
                self._set_trouble(None)
                self._adopt(seen)
                return True
            case Verdict.UNITE:
                assert known is not None
                self._set_trouble("two policies of one epoch: the safer of each value is in force")
                self._policy = unite([known, seen])
                return self._policy != known
            case Verdict.KEEP_LOWER_EPOCH:
                self._set_trouble(f"Redis fell back to epoch {seen.epoch}; the later policy stays in force")
            case Verdict.KEEP_OTHER_LINEAGE:
                self._set_trouble(_FOREIGN)
        # Whatever it lost, a kill that stands there was meant.
        return self._hold(dict(seen.latches))

    def _adopt(self, policy: Policy) -> None:
        self._policy, self._origin = policy, SnapshotOrigin.REDIS
        for scope in tuple(self._external):
            # Either the policy holds the kill now, or it did and a human has re-armed the scope since.
            if scope in policy.latches or self._stored_at.get(scope, policy.epoch + 1) <= policy.epoch:
                is_told = self._stored_at.pop(scope, None) is not None
                latch, record = self._external.pop(scope), self._records.pop(scope, "")
                if record and not is_told and policy.latches.get(scope) == latch:
                    # A write-back brought this process's own trip, and knows no records.
                    self._tell_record(latch, record)
        _log.info("policy", epoch=policy.epoch, kills=[str(scope) for scope in policy.latches])

    async def _offer(self, policy: Policy) -> None:
        with suppress(*REDIS_ERRORS):
            await self._store.offer(
                self._settings.process, replace(policy, latches={**self._external, **policy.latches})
            )

    async def _listen(self) -> None:
        """Turns published changes into reads. A lost message costs one poll interval, no more."""
        pause = _RETRY_FIRST_S
        while not self._stopping:
            pubsub = self._store.redis.pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(self._store.keys.policy_changed)
                self._read_now.set()
                pause = _RETRY_FIRST_S
                while True:
                    # Silence is normal on a channel: the call's limit must not apply to it.
                    if await pubsub.get_message(timeout=_LISTEN_S) is not None:
                        self._read_now.set()
            except REDIS_ERRORS:
                pass
            finally:
                with suppress(*REDIS_ERRORS):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_LAST_S)

    # --- kills from outside the policy -----------------------------------------------------------------------------

    def _note_keys(self, keys: Mapping[Scope, bytes]) -> bool:
        self._keys_set = frozenset(keys)
        found = {
            scope: _kill_by_hand(scope, "redis-key", value.decode(errors="replace") or f"key of {scope}")
            for scope, value in keys.items()
        }
        return self._hold(found)

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(self._settings.kill_file_s)
            note = await asyncio.to_thread(read_kill_file, self._data_dir, self._definition)
            if self._note_kill_file(note):
                self._compile()

    def _note_kill_file(self, note: KillNote | None) -> bool:
        self._kill_note = note
        return self._hold({note.scope: _kill_by_hand(note.scope, "kill-file", note.reason)} if note else {})

    def _hold(self, found: Mapping[Scope, Latch]) -> bool:
        """Keeps kills that were seen until the policy has them: what showed them may be gone by then."""
        stored = self._policy.latches if self._policy is not None else {}
        new = {scope: latch for scope, latch in found.items() if scope not in stored and scope not in self._external}
        if new:
            self._external.update(new)
            self._store_now.set()
            for latch in new.values():
                _log.warning("kill", scope=str(latch.scope), by=latch.by, reason=latch.reason)
        return bool(new)

    async def _store_latches(self) -> None:
        """Makes kills part of the policy, and tells what is to be told: for ever if need be, until Redis knows."""
        pause = _RETRY_FIRST_S
        if self._external:
            self._store_now.set()
        while True:
            await self._store_now.wait()
            self._store_now.clear()
            waiting = [latch for scope, latch in self._external.items() if scope not in self._stored_at]
            if not waiting and not self._untold:
                pause = _RETRY_FIRST_S
                continue
            with suppress(PolicyAbsentError, *REDIS_ERRORS):
                for latch in waiting:
                    record = self._records.get(latch.scope, "")
                    epoch = await asyncio.shield(self._store.kill(latch, self._audit(latch), record))
                    self._stored_at[latch.scope] = epoch
                    self._records.pop(latch.scope, None)
                    self._read_now.set()
                while self._untold:
                    telling = self._untold[0]
                    await asyncio.shield(telling())
                    # Where others have pushed it out meanwhile, the first is not this one.
                    if self._untold and self._untold[0] is telling:
                        self._untold.popleft()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_LAST_S)
            self._store_now.set()

    def _audit(self, latch: Latch) -> AuditEntry:
        return AuditEntry(
            by=latch.by,
            role="",
            action=latch.kind,
            target=str(latch.scope),
            reason=latch.reason,
            changed={},
            request_id=self._settings.process,
            at=latch.at.isoformat(),
            evidence=latch.evidence,
        )

    # --- time ------------------------------------------------------------------------------------------------------

    async def _watch_age(self) -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.kill_file_s)
            read_at = begun if self._read_at is None else self._read_at
            stale = time.monotonic() - read_at > self._settings.stale_s
            if stale and not self._stale:
                self._stale = True
                _log.warning("policy_stale", after_s=self._settings.stale_s)
                self._compile()

    # --- the snapshot and its copy on disk -------------------------------------------------------------------------

    def _compile(self, *, reuse_router: bool = True) -> None:
        if self._policy is None:
            return
        self.current = compile_snapshot(
            self._definition,
            self._policy,
            external=self._external,
            stale=self._stale,
            origin=self._origin,
            router=self.current.router if self.current is not None and reuse_router else None,
        )
        remembered = Remembered(self._policy, dict(self._external))
        if self._origin is SnapshotOrigin.REDIS or self._external:
            self._unsaved = remembered
            self._save_now.set()
        for callback in tuple(self._callbacks):
            callback()

    async def _save(self) -> None:
        while True:
            await self._save_now.wait()
            self._save_now.clear()
            remembered, self._unsaved = self._unsaved, None
            if remembered is None:
                continue
            try:
                await asyncio.shield(asyncio.to_thread(self._file.write, remembered))
            except OSError as exc:
                self._say("policy_file_not_written", why=str(exc))

    def _read_file(self) -> Remembered | None:
        try:
            return self._file.read()
        except OSError as exc:
            _log.error("policy_file_unreadable", path=str(self._file.path), why=str(exc))
            return None

    # --- saying what is wrong --------------------------------------------------------------------------------------

    def _set_trouble(self, why: str | None) -> None:
        if why == self._why:
            return
        if why is None:
            _log.info("policy_recovered", was=self._why)
        else:
            _log.error("policy_degraded", why=why)
        self._why = why

    def _say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - what structlog takes
        """Logs, but not the same thing again and again."""
        now = time.monotonic()
        if now - self._said.get(event, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._said[event] = now
            _log.warning(event, **fields)


def _break_glass_scopes(definition: Definition) -> list[Scope]:
    groups = [Scope(ScopeKind.GROUP, group.name) for group in definition.groups.values() if not group.implicit]
    return [SCOPE_ALL, *groups, *(Scope(ScopeKind.OPERATION, name) for name in definition.operations)]


def _kill_by_hand(scope: Scope, by: str, reason: str) -> Latch:
    return Latch(scope, LatchKind.KILL, one_line(reason)[:_REASON_LIMIT], by, datetime.now(UTC))
