"""Who did what: one entry for each act of an operator, done or refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act. Never holds a secret.

    Attributes:
        by: Name of the token, or of the part that acted.
        role: Its role.
        action: Such as `share`, `stage`, `kill`, `rearm`.
        target: Operation, group or scope.
        reason: As given.
        changed: Field -> [before, after].
        request_id: Of the control request.
        at: RFC 3339 UTC.
        outcome: `done` or the code of the refusal.
        evidence: Name of a trip's record, or None.
    """

    by: str
    role: str
    action: str
    target: str
    reason: str
    changed: dict[str, list[object]]
    request_id: str
    at: str
    outcome: str = "done"
    evidence: str | None = None

    def dump(self) -> str:
        """As JSON on one line."""
        return json.dumps(asdict(self), separators=(",", ":"))
