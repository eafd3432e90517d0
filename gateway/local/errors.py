"""What keeps a machine from starting, in words for whoever typed the command."""

from __future__ import annotations

from gateway.errors import CrossfadeError


class StartError(CrossfadeError):
    """Something must be put right before the parts can start. The message says what."""
