"""The keyed calls in the database."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from backends.approach2.database import Database, aware, utc
from backends.approach2.models import GitCall
from backends.common.calls import KEPT, CallId, Noted, now
from backends.common.errors import Code, ServiceError


class CallTable:
    """Implements `CallStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, call: CallId) -> Noted | None:
        """See `CallStore.find`."""
        query = select(GitCall).where(*_is(call), GitCall.at > utc(now() - KEPT))
        row = await self._database.ask(lambda session: session.scalar(query))
        if row is None:
            return None
        return Noted(row.digest, aware(row.at), None if row.answer is None else json.loads(row.answer))

    async def begin(self, call: CallId) -> None:
        """See `CallStore.begin`. Calls of more than a day ago are removed on the way."""
        row = {
            "workspace_hash": call.workspace.digest,
            "name": call.name,
            "digest": call.digest,
            "at": utc(now()),
        }

        async def note(session: AsyncSession) -> None:
            await session.execute(delete(GitCall).where(GitCall.at <= utc(now() - KEPT)))
            await session.execute(insert(GitCall).values(row))

        try:
            await self._database.ask(note)
        except IntegrityError as exc:
            # Another instance that does not hold the lock: it lost it.
            raise ServiceError(Code.IDEMPOTENCY_IN_PROGRESS, "the same call is still running") from exc

    async def answer(self, call: CallId, answer: dict[str, Any]) -> None:
        """See `CallStore.answer`."""
        change = update(GitCall).where(*_is(call)).values(answer=json.dumps(answer))
        await self._database.ask(lambda session: session.execute(change))

    async def forget(self, call: CallId) -> None:
        """See `CallStore.forget`."""
        await self._database.ask(lambda session: session.execute(delete(GitCall).where(*_is(call))))


def _is(call: CallId) -> tuple[Any, ...]:
    return (GitCall.workspace_hash == call.workspace.digest, GitCall.name == call.name)
