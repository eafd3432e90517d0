"""Where each target of notifications stands in the audit, and who tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final, cast

from gateway.state.connect import RedisClient
from gateway.state.keys import Keys

_PAGE: Final = 50
_CLAIM_MS: Final = 180_000
_KEPT_S: Final = 90 * 86_400
_BEGINNING: Final = "0-0"


class NoticeStore:
    """Places of one migration's targets. Every method may raise one of `connect.REDIS_ERRORS`."""

    def __init__(self, redis: RedisClient, migration: str, process: str) -> None:
        """Knows nothing yet.

        Args:
            redis: The client.
            migration: Its name.
            process: Names this process, and no other that ever ran.
        """
        self._redis = redis
        self._keys = Keys(migration)
        self._process = process
        self._claim = redis.register_script(files("gateway.state").joinpath("lua/claim.lua").read_text())

    async def following(self, target: str) -> list[Mapping[str, Any]]:
        """Audit entries behind the target's place, oldest first, with their `id`; damaged ones hold nothing else."""
        place = cast("bytes | None", await self._redis.get(self._keys.notified(target)))
        if place is None:
            newest = cast("list[tuple[bytes, Any]]", await self._redis.xrevrange(self._keys.audit, count=1))
            await self.passed(target, newest[0][0].decode() if newest else _BEGINNING)
            return []
        after = f"({place.decode()}" if place != _BEGINNING.encode() else "-"
        rows = cast(
            "list[tuple[bytes, dict[bytes, bytes]]]",
            await self._redis.xrange(self._keys.audit, min=after, count=_PAGE),
        )
        found: list[Mapping[str, Any]] = []
        for identifier, fields in rows:
            entry: dict[str, Any] = {}
            with suppress(ValueError, KeyError):
                read = json.loads(fields[b"entry"])
                entry = read if isinstance(read, dict) else {}
            found.append({**entry, "id": identifier.decode()})
        return found

    async def passed(self, target: str, entry: str) -> None:
        """The target's place is behind this entry now."""
        await self._redis.set(self._keys.notified(target), entry, ex=_KEPT_S)

    async def claim(self, target: str) -> bool:
        """Whether it is this process that tells the target, for the next three minutes."""
        answer = await self._claim(keys=[self._keys.notifier(target)], args=[self._process, _CLAIM_MS])
        return bool(answer == 1)

    async def let_go(self, targets: list[str]) -> None:
        """Another process may tell these at once."""
        for target in targets:
            held = cast("bytes | None", await self._redis.get(self._keys.notifier(target)))
            if held == self._process.encode():
                await self._redis.delete(self._keys.notifier(target))
