"""What workers tell each other four times a second, one field for each process; and what they learnt, for restarts.

What a field holds is read with care: one that cannot be read is named, and hinders nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

from gateway.core.detect.reports import Heard, Histograms, Report, Said, packed, report_of, unpacked
from gateway.state.connect import REDIS_ERRORS, RedisClient
from gateway.state.keys import Keys

_KEPT_S: Final = 600
_LEARNT_KEPT_S: Final = 30 * 86_400


class SignalStore:
    """Signals of one migration's workers.

    Attributes:
        process: Names this process.
    """

    def __init__(self, redis: RedisClient, migration: str, process: str) -> None:
        """Says nothing yet.

        Args:
            redis: The client.
            migration: Its name.
            process: Names this process, and no other that ever ran.
        """
        self._redis = redis
        self._keys = Keys(migration)
        self.process = process
        self._seq = 0
        self._others: list[str] = []

    async def swap(self, said: Said) -> Heard | None:
        """Says what this process counted; returns what the others did, or None where Redis does not answer."""
        self._seq += 1
        keys, others = self._keys, self._others
        asked = [(name, operation) for operation in said.due for name in others]
        try:
            # Bounded by the client's own time limits: a call that is cut off would spoil its connection.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hset(keys.signals, self.process, _json([self._seq, said.signals, said.hanging]))
                pipe.hgetall(keys.signals)
                pipe.expire(keys.signals, _KEPT_S)
                if said.histograms:
                    for name, each in said.histograms.items():
                        pipe.hset(keys.histograms, _field(self.process, name), packed(each))
                    pipe.expire(keys.histograms, _KEPT_S)
                if asked:
                    pipe.hmget(keys.histograms, [_field(*pair) for pair in asked])
                answers = await pipe.execute()
        except REDIS_ERRORS:
            return None
        reports, unreadable = self._read(cast("dict[bytes, bytes]", answers[1]))
        self._others = list(reports)
        histograms: dict[str, dict[str, Any]] = {}
        for (name, operation), text in zip(asked, answers[-1] if asked else (), strict=True):
            found = unpacked(text) if text is not None else None
            if found is not None:
                histograms.setdefault(name, {})[operation] = found
        return Heard(reports, cast("Mapping[str, Histograms]", histograms), frozenset(unreadable))

    def _read(self, fields: Mapping[bytes, bytes]) -> tuple[dict[str, Report], set[str]]:
        reports, unreadable = {}, set()
        for name, text in fields.items():
            process = name.decode(errors="replace")
            if process == self.process:
                continue
            report = report_of(_document(text))
            if report is None:
                unreadable.add(process)
            else:
                reports[process] = report
        return reports, unreadable

    async def forget(self, names: Iterable[str]) -> None:
        """Processes are gone."""
        gone = list(names)
        with suppress(*REDIS_ERRORS):
            await self._redis.hdel(self._keys.signals, *gone)
            told = cast("list[bytes]", await self._redis.hkeys(self._keys.histograms))
            suffixes = tuple(f" {name}".encode() for name in gone)
            if fields := [name for name in told if name.endswith(suffixes)]:
                await self._redis.hdel(self._keys.histograms, *fields)

    async def learnt(self) -> Mapping[str, object] | None:
        """What guards learnt, by operation; None where Redis does not answer."""
        try:
            fields = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.learnt))
        except REDIS_ERRORS:
            return None
        return {name.decode(errors="replace"): _document(text) for name, text in fields.items()}

    async def keep(self, learnt: Mapping[str, object]) -> None:
        """Keeps what guards have learnt; without Redis it is kept another time."""
        with suppress(*REDIS_ERRORS):
            async with self._redis.pipeline(transaction=False) as pipe:
                for name, each in learnt.items():
                    pipe.hset(self._keys.learnt, name, _json(each))
                pipe.expire(self._keys.learnt, _LEARNT_KEPT_S)
                await pipe.execute()


def _field(process: str, operation: str) -> str:
    return f"{operation} {process}"


def _json(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))


def _document(text: bytes) -> object:
    """What a field says; None: nothing that is JSON."""
    try:
        return cast("object", json.loads(text))
    except (ValueError, RecursionError):
        return None
