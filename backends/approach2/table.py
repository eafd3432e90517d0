"""The table of sandboxes: which there are, which workspace each serves, and what is known of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from backends.approach2.database import Database, aware, in_turn, utc
from backends.approach2.models import GitSandbox, SandboxState
from backends.common.calls import now
from backends.common.inventory import RangeDigest, Record, State
from backends.common.workspace import WorkspaceId

_PARTS: Final = 4
_PART_BITS: Final = 32
_PART_NAMES: Final = tuple(f"fingerprint_{n}" for n in range(_PARTS))
_WAITING: Final = (SandboxState.CREATING.value, SandboxState.WARM.value)
"""Of no workspace. Those that are being made are known to who makes them alone."""
_COUNTING: Final = 0x706F6F6C
"""Of PostgreSQL's advisory locks; any number that nobody else uses."""
_AFTER_HEX: Final = "g"
"""Sorts behind every hex digit."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A sandbox that serves a workspace.

    Attributes:
        name: Of the sandbox.
        workspace: That it serves.
        since: When it was given away.
        is_used: A write has ended in it.
    """

    name: str
    workspace: WorkspaceId
    since: datetime
    is_used: bool


class SandboxTable:
    """Implements `Inventory`, and says which sandbox is whose. Every method raises `ServiceError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- sandboxes -------------------------------------------------------------------------------------------------

    async def find(self, workspace: WorkspaceId) -> str | None:
        """Name of the sandbox that serves a workspace, or None."""
        query = select(GitSandbox.name).where(*_serves(workspace))
        return await self._database.ask(lambda session: session.scalar(query))

    async def named(self, state: SandboxState) -> list[str]:
        """Names of the sandboxes in a state, oldest first."""
        query = select(GitSandbox.name).where(GitSandbox.state == state.value).order_by(GitSandbox.created_at)
        return list(await self._database.ask(lambda session: session.scalars(query)))

    async def names(self) -> list[str]:
        """Names of all sandboxes."""
        return list(await self._database.ask(lambda session: session.scalars(select(GitSandbox.name))))

    async def counts(self) -> dict[SandboxState, int]:
        """How many are in each state."""
        query = select(GitSandbox.state, func.count()).group_by(GitSandbox.state)
        rows = (await self._database.ask(lambda session: session.execute(query))).all()
        return {**dict.fromkeys(SandboxState, 0), **{SandboxState(state): count for state, count in rows}}

    async def add(self, name: str, total: int) -> bool:
        """Notes a sandbox that is going to be made; False when there are as many as there may be.

        Args:
            name: Of the sandbox.
            total: Of all, at most.
        """
        there = select(func.count()).select_from(GitSandbox).scalar_subquery()
        columns = ("name", "state", "created_at")
        row = select(literal(name), literal(SandboxState.CREATING.value), literal(utc(now()))).where(there < total)
        change = insert(GitSandbox).from_select(columns, row).returning(GitSandbox.name)

        async def count_and_add(session: AsyncSession) -> str | None:
            # SQLite writes one after the other; PostgreSQL would count what others have not committed yet as absent.
            await in_turn(session, _COUNTING)
            return await session.scalar(change)

        return await self._database.ask(count_and_add) is not None

    async def put_warm(self, name: str) -> bool:
        """It waits for a workspace from now on; False when it serves one, or is not known."""
        change = (
            update(GitSandbox)
            .where(GitSandbox.name == name, GitSandbox.state.in_(_WAITING))
            .values(state=SandboxState.WARM.value)
            .returning(GitSandbox.name)
        )
        return await self._database.ask(lambda session: session.scalar(change)) is not None

    async def assigned(self) -> list[Assigned]:
        """Which sandbox serves whom."""
        columns = (
            GitSandbox.name,
            GitSandbox.agent_id,
            GitSandbox.task_id,
            GitSandbox.assigned_at,
            GitSandbox.version,
        )
        query = select(*columns).where(GitSandbox.state == SandboxState.ASSIGNED.value)
        rows: Sequence[Any] = (await self._database.ask(lambda session: session.execute(query))).all()
        return [
            Assigned(row.name, WorkspaceId(row.agent_id, row.task_id), aware(row.assigned_at), row.version > 0)
            for row in rows
        ]

    async def never_made(self, longest: timedelta) -> list[str]:
        """Names of sandboxes that were to be made longer ago than it takes."""
        query = select(GitSandbox.name).where(
            GitSandbox.state == SandboxState.CREATING.value, GitSandbox.created_at < utc(now() - longest)
        )
        return list(await self._database.ask(lambda session: session.scalars(query)))

    async def assign(self, name: str, workspace: WorkspaceId) -> bool:
        """Gives a sandbox to a workspace; False when it was given away, or the workspace has one.

        Args:
            name: Of one that is warm, or that the caller has just made.
            workspace: That has none.
        """
        change = (
            update(GitSandbox)
            .where(GitSandbox.name == name, GitSandbox.state.in_(_WAITING))
            .values(
                state=SandboxState.ASSIGNED.value,
                agent_id=workspace.agent_id,
                task_id=workspace.task_id,
                workspace_hash=workspace.digest,
                assigned_at=utc(now()),
            )
            .returning(GitSandbox.name)
        )
        try:
            return await self._database.ask(lambda session: session.scalar(change)) is not None
        except IntegrityError:
            return False

    async def remove(self, name: str) -> None:
        """Forgets a sandbox, and with it the workspace that it served."""
        change = delete(GitSandbox).where(GitSandbox.name == name)
        await self._database.ask(lambda session: session.execute(change))

    async def remove_warm(self, name: str) -> bool:
        """Forgets a sandbox that waits; False when it does not wait any more: another instance has given it away."""
        change = (
            delete(GitSandbox).where(GitSandbox.name == name, GitSandbox.state.in_(_WAITING)).returning(GitSandbox.name)
        )
        return await self._database.ask(lambda session: session.scalar(change)) is not None

    # --- inventory -------------------------------------------------------------------------------------------------

    async def changed(self, workspace: WorkspaceId, repository: str) -> int:
        """See `Inventory.changed`."""
        unknown: dict[str, Any] = {"branch": None, "head": None, "digest": None, **dict.fromkeys(_PART_NAMES, 0)}
        at = now()
        # Milliseconds, so that no version comes again in a later life of the workspace.
        moment = int(at.timestamp() * 1000)
        version = case((GitSandbox.version >= moment, GitSandbox.version + 1), else_=moment)
        change = (
            update(GitSandbox)
            .where(*_serves(workspace))
            .values(version=version, updated_at=utc(at), repository=repository, **unknown)
            .returning(GitSandbox.version)
        )
        return await self._database.ask(lambda session: session.scalar(change)) or 0

    async def surveyed(self, workspace: WorkspaceId, version: int, state: State) -> None:
        """See `Inventory.surveyed`."""
        record = await self.get(workspace)
        if record is None or record.version != version:
            return
        found = Record(workspace, record.repository, version, record.updated_at, state).fingerprint
        parts = {name: found >> (_PART_BITS * n) & (2**_PART_BITS - 1) for n, name in enumerate(_PART_NAMES)}
        change = (
            update(GitSandbox)
            .where(*_serves(workspace), GitSandbox.version == version)
            .values(branch=state.branch, head=state.head, digest=state.digest, **parts)
        )
        await self._database.ask(lambda session: session.execute(change))

    async def get(self, workspace: WorkspaceId) -> Record | None:
        """See `Inventory.get`."""
        found = await self._records([*_serves(workspace)])
        return found[0] if found else None

    async def page(self, prefix: str, after: str, since: datetime | None, limit: int) -> list[Record]:
        """See `Inventory.page`."""
        where = [*_within(prefix), GitSandbox.workspace_hash > after]
        if since is not None:
            where.append(GitSandbox.updated_at >= utc(since))
        return await self._records(where, limit)

    async def unsurveyed(self, prefix: str) -> list[Record]:
        """See `Inventory.unsurveyed`."""
        return await self._records([*_within(prefix), GitSandbox.digest.is_(None)])

    async def digests(self, prefix: str) -> list[RangeDigest]:
        """See `Inventory.digests`."""
        below = func.substr(GitSandbox.workspace_hash, 1, len(prefix) + 1)
        sums = [func.sum(getattr(GitSandbox, name)) for name in _PART_NAMES]
        query = select(below, func.count(), *sums).where(*_within(prefix)).group_by(below).order_by(below)
        rows = (await self._database.ask(lambda session: session.execute(query))).all()
        return [RangeDigest(row[0], row[1], _joined(row[2:])) for row in rows]

    async def _records(self, where: Sequence[ColumnElement[bool]], limit: int | None = None) -> list[Record]:
        columns = (
            GitSandbox.agent_id,
            GitSandbox.task_id,
            GitSandbox.repository,
            GitSandbox.version,
            GitSandbox.updated_at,
            GitSandbox.branch,
            GitSandbox.head,
            GitSandbox.digest,
        )
        # Columns, not objects: a page of 500 is made in half the time.
        query = select(*columns).where(GitSandbox.version > 0, *where).order_by(GitSandbox.workspace_hash).limit(limit)
        rows: Sequence[Any] = (await self._database.ask(lambda session: session.execute(query))).all()
        return [_record(row) for row in rows]


def _serves(workspace: WorkspaceId) -> tuple[ColumnElement[bool], ...]:
    return (GitSandbox.agent_id == workspace.agent_id, GitSandbox.task_id == workspace.task_id)


def _within(prefix: str) -> tuple[ColumnElement[bool], ...]:
    return (
        GitSandbox.version > 0,
        GitSandbox.workspace_hash >= prefix,
        GitSandbox.workspace_hash < prefix + _AFTER_HEX,
    )


def _record(row: Any) -> Record:  # noqa: ANN401 - a row of these columns, which SQLAlchemy has no type for
    workspace = WorkspaceId(row.agent_id, row.task_id)
    state = None if row.digest is None else State(row.branch, row.head, row.digest)
    return Record(workspace, row.repository, row.version, aware(row.updated_at), state)


def _joined(parts: Sequence[Any]) -> int:
    return sum(int(part) << (_PART_BITS * n) for n, part in enumerate(parts)) % (1 << _PARTS * _PART_BITS)
