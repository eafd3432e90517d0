"""The first policy of a migration, and its return after Redis lost it. Run by the control process only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from gateway.core.audit import AuditEntry
from gateway.core.model import Epoch, Policy
from gateway.core.snapshot import SnapshotOrigin
from gateway.core.unite import unite
from gateway.errors import RestoreRefusedError
from gateway.state.codec import CodecError
from gateway.state.connect import REDIS_ERRORS
from gateway.state.feed import PolicyFeed
from gateway.state.policy_store import PolicyStore
from gateway.state.snapshot_file import SnapshotFile

LOOK_S: Final = 0.5
COLLECT_S: Final = 1.0
"""How long offers are collected before the policy is put back: two polls of every worker."""

_log = structlog.get_logger("crossfade.state")


async def first_boot(
    store: PolicyStore, file: SnapshotFile, initial: Callable[[], Policy], entry: AuditEntry
) -> Policy | None:
    """Writes the first policy, where there never was one. Returns it, or None when there is or was.

    A data directory that remembers a policy means that Redis lost it; starting again at zero would move clients.

    Raises one of `connect.REDIS_ERRORS` when Redis cannot be asked.
    """
    if await asyncio.to_thread(file.exists) or await store.read() is not None:
        return None
    policy = initial()
    return policy if await store.boot(policy, entry) else None


class WriteBack:
    """Puts the policy back after Redis lost it, from what live processes remember."""

    def __init__(self, feed: PolicyFeed, store: PolicyStore) -> None:
        self._feed = feed
        self._store = store

    async def run(self) -> None:
        """Looks twice a second, for ever.

        Every call is shielded: one that is cut off at the moment of its time limit may take the cancellation with it,
        and whoever ends this process would wait for ever.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(CodecError, *REDIS_ERRORS):
                if await asyncio.shield(self._store.offers()):
                    await asyncio.sleep(COLLECT_S)
                    await self._put_back()

    async def _put_back(self) -> None:
        stored = await asyncio.shield(self._store.read())
        candidates = await asyncio.shield(self._store.offers())
        mine = self._feed.remembered()
        if mine is not None and self._feed.status().origin is SnapshotOrigin.REDIS:
            candidates.append(replace(mine.policy, latches={**mine.external, **mine.policy.latches}))
        lineages = {policy.lineage for policy in candidates} | ({stored.lineage} if stored else set())
        if not candidates or len(lineages) != 1:
            _log.error("policy_not_restored", why="processes remember policies of different lineages")
            return
        if stored is not None:
            candidates.append(stored)
        restored = _one_later(candidates)
        if await asyncio.shield(self._store.restore(restored, _entry("write-back", restored))):
            _log.warning("policy_restored", epoch=restored.epoch, remembered_by=len(candidates))
            await asyncio.shield(self._store.clear_offers())
        self._feed.refresh_soon()


async def restore_by_hand(feed: PolicyFeed, store: PolicyStore, entry: AuditEntry) -> Policy:
    """Puts back what this process has in force, wherever it came from: an operator said so.

    Raises:
        RestoreRefusedError: Nothing is known, or Redis holds a later policy.
    """
    mine = feed.remembered()
    if mine is None:
        raise RestoreRefusedError("this process remembers no policy")
    stored = await store.read()
    policy = replace(mine.policy, latches={**mine.external, **mine.policy.latches})
    if stored is not None and stored.lineage == policy.lineage and stored.epoch >= policy.epoch:
        raise RestoreRefusedError(f"Redis holds epoch {stored.epoch} already; there is nothing to restore")
    epoch = max(policy.epoch, stored.epoch if stored else 0) + 1
    latches = {**(stored.latches if stored else {}), **policy.latches}
    restored = replace(policy, epoch=Epoch(epoch), latches=latches)
    if not await asyncio.shield(store.restore(restored, entry, over=stored.lineage if stored else "")):
        raise RestoreRefusedError("Redis was changed at the same time; look again")
    feed.refresh_soon()
    return restored


def _one_later(policies: Iterable[Policy]) -> Policy:
    united = unite(policies)
    return replace(united, epoch=Epoch(united.epoch + 1))


def _entry(action: str, policy: Policy) -> AuditEntry:
    return AuditEntry(
        by="control",
        role="",
        action=action,
        target=policy.migration,
        reason="Redis lost the policy",
        changed={},
        request_id="",
        at=datetime.now(UTC).isoformat(),
    )
