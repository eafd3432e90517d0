"""The bounds of the client side of the data plane. Each has a default that a public-facing proxy would choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one worker accepts.

    Attributes:
        header_bytes: Request line and header fields together.
        header_fields: Number of header fields.
        target_bytes: Length of the request target.
        header_timeout_s: From the first byte of a request (or the accept) to the end of its headers.
        body_idle_timeout_s: Longest silence of a client that still owes body bytes.
        write_idle_timeout_s: Longest time a client may take nothing while an answer waits for it.
        tunnel_idle_s: Longest silence, both ways, of a tunnel.
        keep_alive_s: How long an idle connection is kept.
        chunk_overhead_bytes: Chunk extensions and trailers of one request, beyond what plain chunks need.
        in_flight: Requests carried at once; more are shed with 503.
        connections: Connections held at once. For one more, the oldest that carries no request is closed; where every
            one carries some, the new one is.
        connections_per_address: Of them, from one client address; more are closed at once. 0 = no bound: behind a load
            balancer all clients have its address.
        buffer_bytes: Request body kept per connection before reading pauses.
    """

    header_bytes: int = 64 * 1024
    header_fields: int = 100
    target_bytes: int = 16 * 1024
    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 30.0
    write_idle_timeout_s: float = 60.0
    tunnel_idle_s: float = 3600.0
    keep_alive_s: float = 75.0
    chunk_overhead_bytes: int = 16 * 1024
    in_flight: int = 4096
    connections: int = 20_000
    connections_per_address: int = 0
    buffer_bytes: int = 64 * 1024
