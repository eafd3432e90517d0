"""A part of the machine as data: the supervisor carries specs out and knows nothing of what a part does."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOCKET_FD: Final = "{fd}"
"""Among a part's arguments: becomes the number of its socket."""
CHANNEL_FD: Final = "{channel}"
"""Likewise of its end of a channel (gateway/channel.py)."""

Probe = Callable[[], Awaitable[bool]]
"""Whether a part is ready. Answers in bounded time and never raises."""


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One part.

    Attributes:
        name: Unique, as in runtime.json.
        argv: Program and arguments, no secret among them; `SOCKET_FD` and `CHANNEL_FD` become numbers.
        env: Its whole environment.
        sock: Bound socket that it inherits, kept open here so that a successor inherits the same queue.
        has_channel: Whether it gets a channel, on which it says that it is ready, and which is its lifeline.
        is_foreign: Whether the program knows no lifeline, so that a watcher ends it. All others without a channel find
            theirs in CROSSFADE_LIFELINE_FD.
        log_file: Where it says why it fails, if not on standard error.
        keeps_open: Descriptors that it inherits and holds until its end, such as a lock.
        probe: Tells that it is ready, if it has no channel.
        needs: Parts that must be ready before its first start.
        start_limit_s: When it is not ready by then it is killed and started again; None = it may take for ever.
        stop_limit_s: When it has not ended by then it is killed.
        umask: Of its process; what a part makes is nobody else's to read unless it must be.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    sock: socket.socket | None = None
    has_channel: bool = False
    is_foreign: bool = False
    log_file: Path | None = None
    keeps_open: tuple[int, ...] = ()
    probe: Probe | None = None
    needs: tuple[str, ...] = ()
    start_limit_s: float | None = 60.0
    stop_limit_s: float = 10.0
    umask: int = 0o077
