"""This machine's own approver token: made by the supervisor in a file, kept valid by the control process beside it.

Whoever can read the file may do anything here, so it is valid as long as it is there. Revoked, it goes together with
its file; lost with everything else that Redis held, it comes back.
"""

from __future__ import annotations

import asyncio
import hmac
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

import structlog

from gateway.control.ports import StoreUnavailableError
from gateway.core.roles import Role, TokenInfo

LOOK_S: Final = 1.0
_PREFIX: Final = "up-"

_log = structlog.get_logger("crossfade.control")


class Tokens(Protocol):
    """The tokens where they are stored. Every method may raise `StoreUnavailableError`."""

    async def find(self, secret: str) -> TokenInfo | None:
        """Who holds this secret, or None."""
        ...

    async def ensure(self, secret: str, name: str, role: Role) -> None:
        """Makes a secret that exists already a token."""
        ...

    async def list(self) -> list[TokenInfo]:
        """Every token."""
        ...


class MachineToken:
    """See `gateway.control.ports.Bootstrap`.

    Attributes:
        name: Of the token; another one for every secret, so that two machines never end each other's.
        was_made_valid: Whether the store has known it since this process began.
    """

    def __init__(self, path: Path, secret: str, tokens: Tokens) -> None:
        self._path = path
        self._secret = secret
        self._tokens = tokens
        self._digest = sha256(secret.encode()).digest()
        self._is_valid = False
        self._others: frozenset[str] = frozenset()
        self.was_made_valid = False
        self.name = _PREFIX + self._digest.hex()[:8]

    def matches(self, secret: str) -> bool:
        """See the port."""
        return self._is_mine(secret) and self._is_valid

    def note(self, secret: str, *, is_valid: bool) -> None:
        """See the port."""
        if self._is_mine(secret):
            self._is_valid = is_valid

    async def revoked(self, name: str) -> None:
        """See the port."""
        if name == self.name:
            self._is_valid = False
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
            _log.warning("machine_token_revoked", token=self.name, removed=str(self._path))

    async def keep(self) -> None:
        """Makes it valid, then watches over it until it is revoked."""
        while not await self._make_valid():  # noqa: ASYNC110 - Redis tells nobody when it is back
            await asyncio.sleep(LOOK_S)
        while await self._look():  # noqa: ASYNC110 - nor when a token is revoked
            await asyncio.sleep(LOOK_S)

    async def _make_valid(self) -> bool:
        try:
            await self._tokens.ensure(self._secret, self.name, Role.APPROVER)
            self._others = await self._list_others()
        except StoreUnavailableError:
            return False
        self._is_valid = self.was_made_valid = True
        return True

    async def _look(self) -> bool:
        """Whether there is anything left to watch."""
        try:
            if await self._tokens.find(self._secret) is None:
                return await self._on_missing()
            self._is_valid = True
            self._others = await self._list_others()
        except StoreUnavailableError:
            pass
        return True

    async def _on_missing(self) -> bool:
        others = await self._list_others()
        if others & self._others or any(not name.startswith(_PREFIX) for name in others):
            await self.revoked(self.name)
            return False
        # Nothing is left of what was there but what machines put back: Redis lost its data, nobody revoked anything.
        _log.warning("tokens_lost", restored=self.name)
        await self._make_valid()
        return True

    async def _list_others(self) -> frozenset[str]:
        return frozenset(f"{i.name} {i.digest_prefix}" for i in await self._tokens.list() if i.name != self.name)

    def _is_mine(self, secret: str) -> bool:
        return hmac.compare_digest(sha256(secret.encode()).digest(), self._digest)
