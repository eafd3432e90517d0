"""Who may say more than a client: the holder of the internal token."""

from __future__ import annotations

import hmac
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class InternalToken:
    """The token between gateway, relay and services.

    Attributes:
        secret: None = nobody holds it.
    """

    secret: bytes | None = field(default=None, repr=False)

    @classmethod
    def take(cls, env: MutableMapping[str, str]) -> InternalToken:
        """Reads `CROSSFADE_INTERNAL_TOKEN[_FILE]` and removes it, so that no child process inherits it.

        Raises:
            OSError: The file cannot be read.
        """
        secret = env.pop("CROSSFADE_INTERNAL_TOKEN", "")
        path = env.pop("CROSSFADE_INTERNAL_TOKEN_FILE", "")
        if not secret and path:
            secret = Path(path).read_text().strip()
        return cls(secret.encode() or None)

    def is_held_by(self, value: str | None) -> bool:
        """Whether a `Crossfade-Auth` is right."""
        if self.secret is None or value is None:
            return False
        return hmac.compare_digest(value.encode("latin-1", errors="replace"), self.secret)
