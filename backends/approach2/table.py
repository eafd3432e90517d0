"""The table of sandboxes: which there are, and which workspace each serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeVar

from sqlalchemy import String, UniqueConstraint, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.workspace import WorkspaceId

_ANSWER_S: Final = 10.0
"""Longer than SQLite waits for another writer."""

T = TypeVar("T")


class SandboxState(StrEnum):
    """What a sandbox is there for."""

    WARM = "warm"
    """Empty, waiting for a workspace."""
    ASSIGNED = "assigned"


class Base(DeclarativeBase):
    """All tables of approach 2."""


class GitSandbox(Base):
    """A sandbox."""

    __tablename__ = "git_sandboxes"
    __table_args__ = (UniqueConstraint("agent_id", "task_id", name="uq_git_sandboxes_workspace"),)

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    agent_id: Mapped[str | None] = mapped_column(String(128))
    task_id: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime]
    assigned_at: Mapped[datetime | None]


class SandboxTable:
    """Reads and writes the table. Every method raises `ServiceError` when the database cannot be asked."""

    def __init__(self, url: str) -> None:
        """Connects on first use.

        Args:
            url: Of SQLAlchemy: `sqlite+aiosqlite:///path`.

        Raises:
            ValueError: It is no such URL, or its database has no driver here. The URL is not shown: it may hold a
                password.
        """
        try:
            self._engine: AsyncEngine = create_async_engine(url)
        except (SQLAlchemyError, ImportError) as exc:
            raise ValueError(f"CROSSFADE_DATABASE_URL cannot be used ({type(exc).__name__})") from None
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)

    async def start(self) -> None:
        """Makes the table where there is none.

        Raises:
            SQLAlchemyError: The database cannot be used.
        """
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def aclose(self) -> None:
        """Disconnects."""
        await self._engine.dispose()

    async def check(self) -> None:
        """Asks the database something, to see that it answers."""
        await self._ask(lambda session: session.execute(select(GitSandbox.name).limit(1)))

    async def find(self, workspace: WorkspaceId) -> str | None:
        """Name of the sandbox that serves a workspace, or None."""
        query = select(GitSandbox.name).where(
            GitSandbox.agent_id == workspace.agent_id, GitSandbox.task_id == workspace.task_id
        )
        return await self._ask(lambda session: session.scalar(query))

    async def named(self, state: SandboxState) -> list[str]:
        """Names of the sandboxes in a state, oldest first."""
        query = select(GitSandbox.name).where(GitSandbox.state == state.value).order_by(GitSandbox.created_at)
        return list(await self._ask(lambda session: session.scalars(query)))

    async def names(self) -> list[str]:
        """Names of all sandboxes."""
        return list(await self._ask(lambda session: session.scalars(select(GitSandbox.name))))

    async def add_warm(self, name: str) -> None:
        """Notes a fresh sandbox."""
        row = {"name": name, "state": SandboxState.WARM.value, "created_at": _now()}
        await self._ask(lambda session: session.execute(insert(GitSandbox).values(row)))

    async def assign(self, name: str, workspace: WorkspaceId) -> bool:
        """Gives a warm sandbox to a workspace; False when it was given away, or the workspace has one."""
        change = (
            update(GitSandbox)
            .where(GitSandbox.name == name, GitSandbox.state == SandboxState.WARM.value)
            .values(
                state=SandboxState.ASSIGNED.value,
                agent_id=workspace.agent_id,
                task_id=workspace.task_id,
                assigned_at=_now(),
            )
            .returning(GitSandbox.name)
        )
        try:
            return await self._ask(lambda session: session.scalar(change)) is not None
        except IntegrityError:
            return False

    async def remove(self, name: str) -> None:
        """Forgets a sandbox."""
        await self._ask(lambda session: session.execute(delete(GitSandbox).where(GitSandbox.name == name)))

    async def _ask(self, question: Callable[[AsyncSession], Awaitable[T]]) -> T:
        # To its end: a driver that is cancelled within a transaction leaves the database locked for a while.
        return await to_the_end(self._transaction(question))

    async def _transaction(self, question: Callable[[AsyncSession], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(_ANSWER_S), self._session.begin() as session:
                return await question(session)
        except IntegrityError:
            raise
        except (SQLAlchemyError, TimeoutError) as exc:
            raise _unavailable(exc) from exc


def _now() -> datetime:
    # Without time zone and in UTC: what every database stores alike.
    return datetime.now(UTC).replace(tzinfo=None)


def _unavailable(exc: Exception) -> ServiceError:
    return ServiceError(Code.SANDBOX_UNAVAILABLE, f"the table of sandboxes cannot be used ({type(exc).__name__})")
