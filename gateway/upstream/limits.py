"""The bounds of the upstream client, with defaults that fit a process serving thousands of clients.

Owns numbers only. Deadlines are not here: they belong to the operation (`gateway.core.model.Deadlines`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EjectionLimits:
    """When an instance is taken out of the choice, and for how long.

    Attributes:
        after_failures: Consecutive failures (connecting, or no answer in time) that take an instance out.
        base_s: Length of the first absence; each following one is twice as long.
        max_s: Longest absence.
    """

    after_failures: int = 5
    base_s: float = 1.0
    max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """Bounds of one side's client; "per instance" where connections are meant.

    Attributes:
        connections: Open connections per instance, those being opened included.
        waiting: Exchanges per instance that may wait for a connection; one more is refused at once.
        waiting_s: Longest wait for a connection; the connect deadline may be shorter.
        idle_connections: Kept-alive connections per instance; a further one is closed when its exchange ends.
        idle_timeout_s: Age at which an idle connection is closed. Below the 60-75 s of common servers; a server that
            closes earlier (uvicorn: 5 s) is seen at once by the event loop, and the retry rule covers the race.
        header_bytes: Largest head of an answer, interim (1xx) answers included.
        header_fields: Most fields in one head.
        interim_answers: Most 1xx answers before the final one.
        chunk_overhead_bytes: Most bytes that chunk extensions and trailers of one answer may add.
        body_buffer_bytes: Answer bytes held for a slow reader before the socket is no longer read, and request bytes
            held for a slow side before the upload waits.
        resolve_s: Age at which a host name is looked up again, in the background.
    """

    connections: int = 256
    waiting: int = 1024
    waiting_s: float = 5.0
    idle_connections: int = 256
    idle_timeout_s: float = 30.0
    header_bytes: int = 64 * 1024
    header_fields: int = 200
    interim_answers: int = 16
    chunk_overhead_bytes: int = 16 * 1024
    body_buffer_bytes: int = 64 * 1024
    resolve_s: float = 30.0
    ejection: EjectionLimits = EjectionLimits()
