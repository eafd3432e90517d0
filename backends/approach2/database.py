"""The database: connecting, migrating, and asking it something to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end

_ANSWER_S: Final = 10.0
"""Longer than SQLite waits for another writer."""
_ATTEMPTS: Final = 5
_MIGRATION_LOCK: Final = 0x63726F7373
"""Of PostgreSQL's advisory locks; any number that nobody else uses."""

T = TypeVar("T")


class Database:
    """One database, SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        """Connects on first use.

        Args:
            url: Of SQLAlchemy: `sqlite+aiosqlite:///path`, `postgresql+asyncpg://user:password@host/name`.

        Raises:
            ValueError: It is no such URL, or its database has no driver here. The URL is not shown: it may hold a
                password.
        """
        try:
            self._engine: AsyncEngine = create_async_engine(with_driver(url), pool_pre_ping=True)
        except (SQLAlchemyError, ImportError) as exc:
            raise ValueError(f"CROSSFADE_DATABASE_URL cannot be used ({type(exc).__name__})") from None
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)

    async def start(self) -> None:
        """Migrates the database to what the models say; several instances may do so at once.

        Raises:
            ServiceError: The database cannot be used.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._engine.begin() as connection:
                    await connection.run_sync(migrate)
            except (SQLAlchemyError, OSError) as exc:
                # Another instance may have been faster; it is looked at again.
                if attempt == _ATTEMPTS:
                    raise _unavailable(exc) from exc
                await asyncio.sleep(0.1 * attempt)
            else:
                return

    async def why_not_ready(self) -> str | None:
        """What keeps it from being used, or None: it does not answer, or is not migrated."""
        try:
            async with asyncio.timeout(_ANSWER_S), self._engine.connect() as connection:
                if not await connection.run_sync(is_current):
                    return "the database is not migrated"
        except (SQLAlchemyError, OSError, TimeoutError) as exc:
            return _unavailable(exc).message
        return None

    async def aclose(self) -> None:
        """Disconnects."""
        await self._engine.dispose()

    async def ask(self, question: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Does something in a transaction.

        Raises:
            ServiceError: `sandbox_unavailable`: the database cannot be used.
            IntegrityError: What was asked for contradicts what is there.
        """
        # To its end: a driver that is cancelled within a transaction leaves the database locked for a while.
        return await to_the_end(self._transaction(question))

    async def _transaction(self, question: Callable[[AsyncSession], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(_ANSWER_S), self._session.begin() as session:
                return await question(session)
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError, TimeoutError) as exc:
            raise _unavailable(exc) from exc


def migrate(connection: Connection, revision: str = "head") -> None:
    """Brings a database to a revision, up or down.

    Args:
        connection: In a transaction.
        revision: `head`, `base` or the name of one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
    config = _config()
    config.attributes["connection"] = connection
    if revision == "base":
        command.downgrade(config, revision)
    elif not is_current(connection):
        command.upgrade(config, revision)


def is_current(connection: Connection) -> bool:
    """Whether a database is as the models say."""
    heads = ScriptDirectory.from_config(_config()).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def utc(at: datetime) -> datetime:
    """As it is stored: in UTC, without a zone."""
    return at.astimezone(UTC).replace(tzinfo=None)


def aware(at: datetime) -> datetime:
    """As it was before it was stored."""
    return at.replace(tzinfo=UTC)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def with_driver(url: str) -> str:
    """The URL as people write it, with the driver that is installed."""
    for scheme, full in (("postgresql://", "postgresql+asyncpg://"), ("postgres://", "postgresql+asyncpg://")):
        if url.startswith(scheme):
            return full + url.removeprefix(scheme)
    return url


def _set_up_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # a DBAPI connection, which has no type
    # Readers do not wait for writers; a commit survives a crash of the process.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=8000")
    cursor.close()


def _unavailable(exc: Exception) -> ServiceError:
    return ServiceError(Code.SANDBOX_UNAVAILABLE, f"the database cannot be used ({type(exc).__name__})")
