"""`Crossfade-Force`: a signed, short-lived wish for a side, for testers.

`<side>;exp=<unix>;sig=<hex hmac-sha256(force_secret, migration|side|exp)>`.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Final

from gateway.core.model import Side

_VALUE: Final = re.compile(rb"(old|new);exp=([0-9]{1,12});sig=([0-9a-f]{64})")


def sign(secret: bytes, migration: str, side: Side, expires_at: int) -> str:
    """The header's value.

    Args:
        secret: The force secret.
        migration: Name of the migration.
        side: The wanted side.
        expires_at: Unix seconds.
    """
    signature = hmac.new(secret, f"{migration}|{side}|{expires_at}".encode(), sha256).hexdigest()
    return f"{side};exp={expires_at};sig={signature}"


def verify(secret: bytes, migration: str, value: bytes, now: float) -> Side | None:
    """The side of a valid, unexpired value, else None.

    Args:
        secret: The force secret.
        migration: Name of the migration.
        value: Raw header value.
        now: Unix seconds.
    """
    found = _VALUE.fullmatch(value.strip(b" \t"))
    if found is None or int(found[2]) <= now:
        return None
    side = Side(found[1].decode())
    expected = sign(secret, migration, side, int(found[2])).encode()
    return side if hmac.compare_digest(expected, value.strip(b" \t")) else None
