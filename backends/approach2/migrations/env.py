"""Alembic's environment. The connection comes from `database.migrate`, or from `-x url=…` of the alembic command."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from backends.approach2.models import Base


def run(connection: Connection) -> None:
    """Runs what was asked for on a connection."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_by_url(url: str) -> None:
    """Connects first."""
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_by_url(context.get_x_argument(as_dictionary=True)["url"]))
