"""Alerts that kill: from Alertmanager by an operator's token, from anything else by a signature.

An alert names no scope: it kills the one that the migration file names. `resolved` never re-arms.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from gateway.control.auth import Caller
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Code, Refused
from gateway.core.model import IncidentRules
from gateway.core.plain_text import one_line
from gateway.core.roles import Role

WINDOW_S: Final = 300.0
_REMEMBERED: Final = 10_000
_HEADER: Final = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")
_REASON_LIMIT: Final = 400
_SHORTEST: Final = 16


class Signatures:
    """Checks `Crossfade-Signature: t=<unix>,v1=<hex hmac-sha256(secret, t.body)>`; each counts once.

    Also over restarts and for several control processes; where Redis cannot be asked, for this one: an alert kills.
    """

    def __init__(self, clock: Callable[[], float], is_first: Callable[[str], Awaitable[bool]]) -> None:
        """Has seen none.

        Args:
            clock: Unix seconds.
            is_first: Whether no process has seen a signature yet; may raise `StoreUnavailableError`.
        """
        self._clock = clock
        self._is_first = is_first
        self._seen: OrderedDict[str, float] = OrderedDict()

    async def check(self, header: str, body: bytes, secret: bytes | None) -> Caller:
        """Who signed.

        Raises:
            Refused: `token_required`: nobody who may, too long ago, or once before.
        """
        found = _HEADER.fullmatch(header.strip())
        if secret is None or found is None:
            raise _refused()
        now, at = self._clock(), int(found[1])
        expected = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, found[2]) or abs(now - at) > WINDOW_S:
            raise _refused()
        while self._seen and (len(self._seen) > _REMEMBERED or next(iter(self._seen.values())) < now - 2 * WINDOW_S):
            self._seen.popitem(last=False)
        if found[2] in self._seen:
            raise _refused()
        self._seen[found[2]] = now
        try:
            is_first = await self._is_first(found[2])
        except StoreUnavailableError:
            is_first = True
        if not is_first:
            raise _refused()
        return Caller("incident", Role.OPERATOR)


def secret_of(rules: IncidentRules | None) -> bytes | None:
    """The secret of signatures, or None: none count. Read anew each time: it may be replaced while control runs."""
    if rules is None or rules.secret_file is None:
        return None
    try:
        secret = Path(rules.secret_file).read_bytes().strip()
    except OSError:
        return None
    return secret if len(secret) >= _SHORTEST else None


def _refused() -> Refused:
    return Refused(Code.TOKEN_REQUIRED, "the signature is not valid, too old, or was used before")


def reason_of(content: dict[str, Any]) -> str | None:
    """Why to kill; None: the alert is over, and that kills nothing.

    Args:
        content: Of Alertmanager (`status`, `alerts`), or `{"reason": …}` of anything else.
    """
    alerts = content.get("alerts")
    if content.get("status") == "resolved":
        return None
    if isinstance(alerts, list):
        firing = [alert for alert in alerts if isinstance(alert, dict) and alert.get("status", "firing") == "firing"]
        if not firing:
            return None
        names = sorted({_name(alert) for alert in firing})
        return _plain(f"incident: {', '.join(names)}")
    reason = content.get("reason")
    return _plain(f"incident: {reason}" if isinstance(reason, str) and reason.strip() else "incident")


def _name(alert: dict[str, Any]) -> str:
    labels = alert.get("labels")
    name = labels.get("alertname") if isinstance(labels, dict) else None
    return name if isinstance(name, str) and name else "alert"


def _plain(text: str) -> str:
    return one_line(text)[:_REASON_LIMIT]
