"""One Redis for each data directory, also when the supervisor before was killed and its Redis is still ending.

Two servers would append to one file, and the one that ends would remove the other's socket. The lock of the data
directory ends with the supervisor; this one is inherited by the server and ends with it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from gateway.local.errors import StartError

_PATIENCE_S: Final = 15.0
"""Longer than the server's watcher gives it before it kills it (lifeline.PATIENCE_S, twice)."""
_LOOK_S: Final = 0.02


def wait_for_predecessor(home: Path, patience_s: float = _PATIENCE_S) -> int:
    """Takes the lock of an embedded Redis, once the server that holds it has ended.

    Args:
        home: Directory of the server.
        patience_s: How long to wait.

    Returns:
        A descriptor that the server must inherit; whoever closes the last one gives the lock up.

    Raises:
        StartError: The server of an earlier run does not end.
    """
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise StartError(
                    f"the Redis of an earlier run still uses {home}; end that process (redis-server), then start again"
                ) from None
            time.sleep(_LOOK_S)
        else:
            return descriptor
