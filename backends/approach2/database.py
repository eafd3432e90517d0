"""The database: connecting, migrating, and asking it something to the end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from backends.approach2.models import GitDeployment
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end

_ANSWER_S: Final = 10.0
"""Longer than SQLite waits for another writer."""
SERVER_S: Final = 60.0
"""Longest wait for a server at the start. A fresh one initialises itself first."""
_FILE_S: Final = 1.5
"""For a file: it is there, or another instance is just migrating it."""
_MIGRATION_S: Final = 60.0
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_MIGRATION_LOCK: Final = 0x63726F7373
"""Of PostgreSQL's advisory locks; any number that nobody else uses."""

_ONE: Final = 1

T = TypeVar("T")

_log = structlog.get_logger("crossfade.approach2")


class Database:
    """One database, SQLite or PostgreSQL."""

    def __init__(self, url: str, password: str | None = None, server_s: float = SERVER_S) -> None:
        """Connects on first use.

        Args:
            url: Of SQLAlchemy: `sqlite+aiosqlite:///path`, `postgresql+asyncpg://user:password@host/name`.
            password: Where the URL holds none.
            server_s: How long a start waits for a server.

        Raises:
            ValueError: It is no such URL, or its database has no driver here. The URL is not shown: it may hold a
                password.
        """
        try:
            place = make_url(with_driver(url))
            place = place.set(password=password) if password else place
            self._engine: AsyncEngine = create_async_engine(place, pool_pre_ping=True)
        except (SQLAlchemyError, ImportError) as exc:
            raise ValueError(f"CROSSFADE_DATABASE_URL cannot be used ({type(exc).__name__})") from None
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)
        self._start_s = _FILE_S if self._engine.dialect.name == "sqlite" else server_s
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)

    async def start(self) -> None:
        """Migrates the database to what the models say; several instances may do so at once.

        A server that is not there yet is waited for: who starts everything at once starts its database too.

        Raises:
            ServiceError: The database cannot be used.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._start_s
        pause_s = _PAUSE_S
        while True:
            try:
                async with asyncio.timeout(_MIGRATION_S), self._engine.begin() as connection:
                    await connection.run_sync(migrate)
            except (SQLAlchemyError, OSError, TimeoutError) as exc:
                # Another instance may have been faster; it is looked at again.
                if loop.time() >= until:
                    raise _unavailable(exc) from exc
                _log.warning("database_not_there", why=type(exc).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return

    async def deployment(self) -> str:
        """The random name of the deployment that this database is of; the first who asks makes it.

        Raises:
            ServiceError: The database cannot be used.
        """
        with suppress(IntegrityError):
            await self.ask(_name_deployment)
        query = select(GitDeployment.name).where(GitDeployment.id == _ONE)
        name = await self.ask(lambda session: session.scalar(query))
        assert name is not None
        return name

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


async def in_turn(session: AsyncSession, number: int) -> None:
    """The rest of the transaction runs after those that asked for the same number before. SQLite does that anyway."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": number})


async def _name_deployment(session: AsyncSession) -> None:
    if await session.scalar(select(GitDeployment.id)) is None:
        session.add(GitDeployment(id=_ONE, name=secrets.token_hex(8)))


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
