"""Who calls: bearer tokens, roles, and a bound on failed attempts.

Each request asks the store, so a revoked token ends with the next request. When the store cannot be asked nobody may
change anything; the holder of this machine's own token may still look.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.control.ports import Bootstrap, StoreUnavailableError, Tokens
from gateway.control.problems import Code, Refused, unavailable
from gateway.core.roles import Role, TokenInfo

_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,256}=*)")
ATTEMPTS: Final = 20
"""Failed attempts that one address may make in a window."""
WINDOW_S: Final = 60.0
ADDRESSES: Final = 1024
"""Addresses that are remembered; the one longest silent is forgotten first."""

WAYS_TO_KILL: Final = (
    "to kill now, write the scope (all, group:NAME or operation:NAME) into the file KILL of the data directory"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: Of the token.
        role: What it may do.
        is_unconfirmed: The store could not be asked; the caller may only look.
    """

    name: str
    role: Role
    is_unconfirmed: bool = False


class Attempts:
    """Counts failed attempts by address, in a bounded space."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def fail(self, address: str) -> float | None:
        """Counts one. Returns how many seconds to wait when there were too many, else None."""
        now = self._clock()
        begun, count = self._failed.pop(address, (now, 0))
        if now - begun >= WINDOW_S:
            begun, count = now, 0
        self._failed[address] = (begun, count + 1)
        while len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)
        return None if count < ATTEMPTS else max(1.0, begun + WINDOW_S - now)


class Authenticator:
    """Finds out who calls."""

    def __init__(self, tokens: Tokens, bootstrap: Bootstrap | None, clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._bootstrap = bootstrap
        self._attempts = Attempts(clock)

    async def identify(self, authorization: str | None, address: str) -> Caller:
        """The caller.

        A valid token passes however many attempts have failed: a kill must not be locked out by somebody's noise.

        Args:
            authorization: The field's value, or None.
            address: Of the client.

        Raises:
            Refused: 401, 429 after too many failures, 503 when the store cannot be asked.
        """
        if authorization is None:
            raise _token_required("send Authorization: Bearer with an operator's token")
        found = _BEARER.fullmatch(authorization.strip())
        if found is None:
            raise self._failed(address, "the Authorization field is no bearer token")
        secret = found[1]
        try:
            info = await self._tokens.find(secret)
        except StoreUnavailableError as exc:
            return self._unconfirmed(secret, exc)
        if self._bootstrap is not None:
            self._bootstrap.note(secret, is_valid=info is not None)
        if info is None:
            raise self._failed(address, "the token is unknown, revoked or expired")
        return _caller(info)

    def _unconfirmed(self, secret: str, exc: StoreUnavailableError) -> Caller:
        if self._bootstrap is not None and self._bootstrap.matches(secret):
            return Caller("bootstrap", Role.VIEWER, is_unconfirmed=True)
        raise unavailable(f"Redis cannot be asked about the token; {WAYS_TO_KILL}") from exc

    def _failed(self, address: str, message: str) -> Refused:
        wait_s = self._attempts.fail(address)
        if wait_s is None:
            return _token_required(message)
        return Refused(
            Code.TOO_MANY_ATTEMPTS,
            f"more than {ATTEMPTS} failed attempts in {WINDOW_S:.0f} s",
            headers={"Retry-After": str(int(wait_s) + 1)},
        )


def require(caller: Caller, role: Role) -> None:
    """Lets pass who may.

    Raises:
        Refused: 403, or 503 when it is not known who calls.
    """
    if caller.is_unconfirmed and role > Role.VIEWER:
        raise unavailable(f"Redis cannot be asked; nothing can be changed; {WAYS_TO_KILL}")
    if caller.role < role:
        raise Refused(
            Code.ROLE_REQUIRED,
            f"token {caller.name} is a {caller.role}'s; this needs the role {role}",
            role=str(role),
        )


def _token_required(message: str) -> Refused:
    return Refused(Code.TOKEN_REQUIRED, message, headers={"WWW-Authenticate": "Bearer"})


def _caller(info: TokenInfo) -> Caller:
    return Caller(info.name, info.role)
