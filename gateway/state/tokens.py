"""Operator tokens: stored as SHA-256, shown once."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, cast

from gateway.core.roles import Role, TokenInfo
from gateway.errors import TokenExistsError
from gateway.state.connect import RedisClient
from gateway.state.keys import Keys

PREFIX: Final = "cf_"
_ENTROPY_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _utc_now() -> datetime:
    return datetime.now(UTC)


def new_secret() -> str:
    """A fresh token: `cf_` and 32 random bytes in base64url."""
    return PREFIX + secrets.token_urlsafe(_ENTROPY_BYTES)


class TokenStore:
    """Tokens of one migration in Redis. Every method may raise one of `connect.REDIS_ERRORS`."""

    def __init__(self, redis: RedisClient, migration: str, now: Callable[[], datetime] = _utc_now) -> None:
        self._redis = redis
        self._key = Keys(migration).tokens
        self._now = now

    async def create(self, name: str, role: Role, expires_at: datetime | None = None) -> str:
        """Makes a token and returns it. It cannot be shown again.

        Raises:
            ValueError: The name is not valid.
            TokenExistsError: The name is taken.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"name {name!r} must be 1-64 of A-Z a-z 0-9 . _ - and begin with a letter or a digit")
        if any(info.name == name for info in await self.list()):
            raise TokenExistsError(f"a token named {name} exists; revoke it first")
        secret = new_secret()
        await self._put(secret, name, role, expires_at)
        return secret

    async def ensure(self, secret: str, name: str, role: Role) -> None:
        """Makes a secret that exists already a token; other tokens of that name end."""
        digest = _digest(secret)
        for field, info in (await self._all()).items():
            if info.name == name and field != digest:
                await self._redis.hdel(self._key, field)
        await self._put(secret, name, role, None)

    async def list(self) -> list[TokenInfo]:
        """Every token, expired ones included, by name."""
        return sorted((await self._all()).values(), key=lambda info: info.name)

    async def revoke(self, name: str) -> bool:
        """Ends every token of that name; False when there was none."""
        fields = [field for field, info in (await self._all()).items() if info.name == name]
        return bool(fields) and bool(await self._redis.hdel(self._key, *fields))

    async def find(self, secret: str) -> TokenInfo | None:
        """Who holds this secret, or None: unknown, revoked or expired.

        Looks it up by its digest, so that the time taken says nothing about secrets that exist.
        """
        digest = _digest(secret)
        found = cast("bytes | None", await self._redis.hget(self._key, digest))
        if found is None:
            return None
        info = _decode(digest, found)
        return None if info.expires_at is not None and info.expires_at <= self._now() else info

    async def _all(self) -> dict[str, TokenInfo]:
        stored = cast("dict[bytes, bytes]", await self._redis.hgetall(self._key))
        return {field.decode(): _decode(field.decode(), text) for field, text in stored.items()}

    async def _put(self, secret: str, name: str, role: Role, expires_at: datetime | None) -> None:
        content = {
            "name": name,
            "role": str(role),
            "created_at": self._now().isoformat(),
            "expires_at": expires_at.isoformat() if expires_at else None,
        }
        await self._redis.hset(self._key, _digest(secret), json.dumps(content))


def _decode(digest: str, text: bytes) -> TokenInfo:
    content = json.loads(text)
    expires = content["expires_at"]
    return TokenInfo(
        content["name"],
        Role.parse(content["role"]),
        datetime.fromisoformat(content["created_at"]),
        datetime.fromisoformat(expires) if expires else None,
        digest[:8],
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
