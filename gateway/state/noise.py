"""The relaxations that operators accepted, in Redis: one JSON value with a version, replaced under compare-and-set."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, Final, cast

from gateway.core.compare.names import DATA
from gateway.core.compare.rules import PathError, Relax, split_path
from gateway.state.connect import RedisClient
from gateway.state.keys import Keys

_FIRST: Final = 1
_FORMAT: Final = 2
_OLD_DATA: Final = re.compile(r"(?<=\.)\*(?=[.\[]|$)")

Relaxed = Mapping[str, Mapping[str, Relax]]
"""By operation and path."""


@dataclass(frozen=True, slots=True)
class AcceptedNoise:
    """What was accepted.

    Attributes:
        version: Grows with every change; 0 = nothing was ever accepted.
        relaxed: By operation and path.
        frozen: Who reads it and must find no other, and until when, in Unix seconds.
    """

    version: int = 0
    relaxed: Relaxed = field(default_factory=dict)
    frozen: Mapping[str, float] = field(default_factory=dict)

    def frozen_by(self, now: float) -> str | None:
        """Who keeps it as it is; None: it may be changed.

        Args:
            now: Unix seconds.
        """
        return next((name for name, until in sorted(self.frozen.items()) if until > now), None)


class NoiseStore:
    """Accepted relaxations of one migration. Every method may raise one of `connect.REDIS_ERRORS`."""

    def __init__(self, redis: RedisClient, migration: str) -> None:
        self._redis = redis
        self._key = Keys(migration).noise
        self._accept = redis.register_script(
            files("gateway.state").joinpath("lua/accept_noise.lua").read_text(encoding="utf-8")
        )

    async def read(self) -> AcceptedNoise:
        """What is accepted now. What cannot be read relaxes nothing."""
        stored = cast("bytes | None", await self._redis.get(self._key))
        if stored is None:
            return AcceptedNoise()
        try:
            document = json.loads(stored)
            version = int(document["version"])
        except (ValueError, KeyError, TypeError):
            return AcceptedNoise()
        try:
            return AcceptedNoise(version, _relaxed(document), _frozen(document))
        except (ValueError, KeyError, TypeError, AttributeError):
            return AcceptedNoise(version)

    async def replace(self, before: AcceptedNoise, relaxed: Relaxed) -> AcceptedNoise | None:
        """Replaces what was read; None when somebody else was first."""
        return await self._write(before, replace(before, relaxed=relaxed))

    async def freeze(self, by: str, until: float) -> AcceptedNoise:
        """Keeps what is accepted as it is, for somebody who reads it: figures of two sets of rules are not one figure.

        A change that is on its way is too late. Freezing again sets another end; `until` bounds it in any case, since
        whoever froze it may die.

        Args:
            by: Who, such as `gate workspace`.
            until: Unix seconds.
        """
        return await self._refreeze(lambda frozen: {**frozen, by: until})

    async def thaw(self, by: str) -> AcceptedNoise:
        """Ends what `freeze` began."""
        return await self._refreeze(lambda frozen: {name: end for name, end in frozen.items() if name != by})

    async def _refreeze(self, change: Callable[[Mapping[str, float]], Mapping[str, float]]) -> AcceptedNoise:
        while True:
            before = await self.read()
            after = replace(before, frozen=change(before.frozen))
            if after == before:
                return before
            # Each turn somebody else has succeeded.
            if written := await self._write(before, after):
                return written

    async def _write(self, before: AcceptedNoise, after: AcceptedNoise) -> AcceptedNoise | None:
        after = replace(
            after,
            version=before.version + 1,
            relaxed={name: paths for name, paths in after.relaxed.items() if paths},
        )
        document = {
            "version": after.version,
            "format": _FORMAT,
            "relaxed": {
                name: {path: relax.words for path, relax in paths.items()} for name, paths in after.relaxed.items()
            },
            "frozen": dict(after.frozen),
        }
        done = await self._accept(keys=[self._key], args=[before.version, json.dumps(document)])
        return after if done else None


def _relaxed(document: dict[str, Any]) -> Relaxed:
    is_first = document.get("format", _FIRST) == _FIRST
    if document.get("format", _FIRST) not in (_FIRST, _FORMAT):
        raise ValueError("written by a later version")
    relaxed: dict[str, dict[str, Relax]] = {}
    for name, paths in document["relaxed"].items():
        for path, said in paths.items():
            # The first format knew one relaxation a part, and wrote `*` for names that may be data.
            words = [said] if is_first else said
            path = _OLD_DATA.sub(DATA, path) if is_first else path
            try:
                split_path(path)
            except PathError:
                continue
            relaxed.setdefault(name, {})[path] = Relax.of(words)
    return relaxed


def _frozen(document: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(until) for name, until in document.get("frozen", {}).items()}
