"""What state offers, in the shape that control asks for: one exception for a Redis that cannot be asked.

Belongs to the composition root of the control process; control itself does not know these classes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from gateway.control.ports import Document, Relaxed, StoreUnavailableError
from gateway.core.audit import AuditEntry
from gateway.core.compare.tallies import Recent
from gateway.core.drill import DrillOrder, WorkerNote
from gateway.core.model import Epoch, Latch, Policy
from gateway.core.roles import Role, TokenInfo
from gateway.notify.outbox import UnreadableError
from gateway.state.boot import restore_by_hand
from gateway.state.codec import CodecError
from gateway.state.connect import REDIS_ERRORS
from gateway.state.counters import CounterStore
from gateway.state.drills import DrillStore
from gateway.state.evidence import EvidenceStore, Order
from gateway.state.feed import PolicyFeed
from gateway.state.noise import AcceptedNoise, NoiseStore
from gateway.state.notices import NoticeStore
from gateway.state.policy_store import PolicyStore
from gateway.state.tokens import TokenStore
from gateway.telemetry.ledger import Ledger

SAMPLE_S: Final = 0.5

Result = TypeVar("Result")


@contextmanager
def _asking() -> Iterator[None]:
    """Says in one way that Redis cannot be asked."""
    try:
        yield
    except CodecError as exc:
        raise StoreUnavailableError(f"what Redis holds cannot be read: {exc}") from exc
    except REDIS_ERRORS as exc:
        # The kind only: texts of connection errors may hold addresses and commands.
        raise StoreUnavailableError(f"Redis cannot be asked ({type(exc).__name__})") from exc


async def _ask(call: Awaitable[Result]) -> Result:
    """Asks Redis. The call is finished even when nobody waits for it any more: its connection would be spoiled."""
    with _asking():
        return await asyncio.shield(call)


async def _ask_twice(call: Callable[[], Awaitable[Result]]) -> Result:
    """Asks what may be asked again: after a restart of Redis every pooled connection fails once."""
    try:
        return await _ask(call())
    except StoreUnavailableError:
        return await _ask(call())


class StoredPolicy:
    """See `gateway.control.ports.Store`."""

    def __init__(self, store: PolicyStore, feed: PolicyFeed) -> None:
        self._store = store
        self._feed = feed

    async def read(self) -> Policy | None:
        """See the port."""
        return await _ask_twice(self._store.read)

    async def change(self, before: Policy, after: Policy, entry: AuditEntry) -> Policy:
        """See the port."""
        return await _ask(self._store.change(before, after, entry))

    async def kill(self, latch: Latch, entry: AuditEntry) -> Epoch | None:
        """See the port."""
        return await _ask_twice(lambda: self._feed.kill(latch, entry))

    async def restore(self, entry: AuditEntry) -> Policy:
        """See the port."""
        return await _ask(restore_by_hand(self._feed, self._store, entry))

    async def record(self, entry: AuditEntry) -> None:
        """See the port."""
        await _ask(self._store.record(entry))

    async def audit(self, limit: int, cursor: str | None) -> tuple[list[Document], str | None]:
        """See the port."""
        return await _ask_twice(lambda: self._store.audit(limit, cursor))

    async def is_first(self, signature: str) -> bool:
        """See the port."""
        return await _ask(self._store.is_first(signature))

    async def trips(self) -> list[Document]:
        """See the port."""
        return await _ask_twice(self._store.trips)


class StoredNotices:
    """See `gateway.notify.outbox.Entries`."""

    def __init__(self, notices: NoticeStore, policies: PolicyStore) -> None:
        self._notices = notices
        self._policies = policies

    async def following(self, target: str) -> list[Mapping[str, Any]]:
        """See the port."""
        with _reading():
            return await asyncio.shield(self._notices.following(target))

    async def passed(self, target: str, entry: str) -> None:
        """See the port."""
        with _reading():
            await asyncio.shield(self._notices.passed(target, entry))

    async def claim(self, target: str) -> bool:
        """See the port."""
        with _reading():
            return await asyncio.shield(self._notices.claim(target))

    async def let_go(self, targets: list[str]) -> None:
        """See the port."""
        with _reading():
            await asyncio.shield(self._notices.let_go(targets))

    async def evidence(self, name: str) -> Mapping[str, Any] | None:
        """See the port."""
        with _reading():
            records = await asyncio.shield(self._policies.trips())
        return next((record for record in records if record["id"] == name), None)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except REDIS_ERRORS as exc:
        raise UnreadableError(type(exc).__name__) from exc


class StoredTokens:
    """See `gateway.control.ports.Tokens`."""

    def __init__(self, tokens: TokenStore) -> None:
        self._tokens = tokens

    async def find(self, secret: str) -> TokenInfo | None:
        """See the port."""
        return await _ask_twice(lambda: self._tokens.find(secret))

    async def create(self, name: str, role: Role, expires_at: datetime | None) -> str:
        """See the port."""
        return await _ask(self._tokens.create(name, role, expires_at))

    async def ensure(self, secret: str, name: str, role: Role) -> None:
        """Makes a secret that exists already a token."""
        await _ask(self._tokens.ensure(secret, name, role))

    async def list(self) -> list[TokenInfo]:
        """See the port."""
        return await _ask_twice(self._tokens.list)

    async def revoke(self, name: str) -> bool:
        """See the port."""
        return await _ask(self._tokens.revoke(name))


class StoredEvidence:
    """See `gateway.control.ports.Evidence`."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store

    async def page(
        self, limit: int, cursor: str | None, operation: str | None, order: str
    ) -> tuple[list[Document], str | None]:
        """See the port."""
        return await _ask_twice(lambda: self._store.page(limit, cursor, operation, Order(order)))


class StoredNoise:
    """See `gateway.control.ports.Noise`."""

    def __init__(self, store: NoiseStore) -> None:
        self._store = store

    async def read(self) -> tuple[int, Relaxed]:
        """See the port."""
        accepted = await _ask_twice(self._store.read)
        return accepted.version, accepted.relaxed

    async def replace(self, version: int, relaxed: Relaxed) -> bool:
        """See the port."""
        return await _ask(self._store.replace(AcceptedNoise(version), relaxed)) is not None

    async def frozen_by(self) -> str | None:
        """See the port."""
        return (await _ask_twice(self._store.read)).frozen_by(time.time())


class StoredDrills:
    """See `gateway.control.drill.ports.Drills`."""

    def __init__(self, store: DrillStore) -> None:
        self._store = store

    def now(self) -> float:
        """See the port."""
        return self._store.clock.now()

    async def tell_time(self) -> None:
        """See the port."""
        await _ask_twice(self._store.tell_time)

    async def begin(self, order: DrillOrder) -> bool:
        """See the port."""
        return await _ask(self._store.begin(order))

    async def change(self, order: DrillOrder) -> None:
        """See the port."""
        await _ask_twice(lambda: self._store.change(order))

    async def end(self, drill: str) -> None:
        """See the port."""
        await _ask_twice(lambda: self._store.end(drill))

    async def take(self, drill: str, holder: str) -> bool:
        """See the port."""
        return await _ask(self._store.take(drill, holder))

    async def hold(self, drill: str, holder: str) -> bool:
        """See the port."""
        return await _ask_twice(lambda: self._store.hold(drill, holder))

    async def release(self, drill: str) -> None:
        """See the port."""
        await _ask_twice(lambda: self._store.release(drill))

    async def note_debt(self, about: str) -> bool:
        """Notes which debt is told; False when it was told before."""
        return await _ask(self._store.note_debt(about))

    async def forget_debt(self) -> None:
        """The debt could not be told."""
        await _ask_twice(self._store.forget_debt)

    async def notes(self, drill: str) -> list[WorkerNote]:
        """See the port."""
        return await _ask_twice(lambda: self._store.notes(drill))

    async def keep_trip(self, seen: Latch, kept: Latch, entry: AuditEntry) -> bool:
        """See the port."""
        return await _ask(self._store.keep_trip(seen, kept, entry))

    async def keep(self, report: dict[str, Any]) -> None:
        """See the port."""
        await _ask_twice(lambda: self._store.keep(report))

    async def reports(self) -> list[dict[str, Any]]:
        """See the port."""
        return await _ask_twice(self._store.reports)


class WorkerCounters:
    """See `gateway.control.ports.Counters`. Read from Redis on a timer.

    Attributes:
        ledger: Adds them up.
    """

    def __init__(self, store: CounterStore, clock: Callable[[], float] = time.monotonic) -> None:
        """Knows nothing yet.

        Args:
            store: Where they are.
            clock: Monotonic seconds.
        """
        self.ledger = Ledger()
        self._store = store
        self._clock = clock
        self._heard: dict[str, tuple[object, float]] = {}
        self._live: Mapping[str, Mapping[str, Any]] = {}

    @property
    def live(self) -> Mapping[str, Mapping[str, Any]]:
        """See the port."""
        return self._live

    def fresh(self, within_s: float) -> Mapping[str, Mapping[str, Any]]:
        """See the port."""
        since = self._clock() - within_s
        return {name: blob for name, blob in self._live.items() if self._heard[name][1] >= since}

    def totals(self) -> Document:
        """See the port."""
        return self.ledger.totals()

    def window(self, now: float) -> tuple[Document, float]:
        """See the port."""
        return self.ledger.window(now)

    def suspected(self, operation: str) -> int:
        """See the port."""
        return self.ledger.suspected(operation)

    def agreement(self, unix_now: float) -> Mapping[str, Recent]:
        """See the port."""
        return self.ledger.agreement(unix_now)

    async def look(self) -> None:
        """Reads what the workers said.

        Raises:
            StoreUnavailableError: Redis cannot be asked; the last reports stay.
        """
        self._live = await _ask(self._store.read_all())
        self._take(self._live.values())
        now = self._clock()
        # When it came, by this clock: what a worker takes for the time may be anything.
        self._heard = {
            name: self._heard[name]
            if name in self._heard and self._heard[name][0] == blob.get("at")
            else (blob.get("at"), now)
            for name, blob in self._live.items()
        }
        self.ledger.sample(now)

    def _take(self, blobs: Iterable[Mapping[str, Any]]) -> None:
        for blob in blobs:
            self.ledger.take(blob)
