"""Bounds of the shadow: whatever the other side does, it costs the serving path no more than this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """What one worker spends on mirrored reads.

    Attributes:
        queue: Reads that wait for their copy to be sent, for each side.
        queue_bytes: Bytes of requests and answers that are held, from when a read is sent to the verdict.
        concurrency: Copies on their way to a side at once, at most; fewer while it is slow.
        deadline_s: Of a copy; the operation's own where that is shorter.
        waiting_s: A copy that waited longer is not sent: it would see another state.
        body_bytes: Largest answer that is compared, its content coding undone.
        compare_s: A pair that takes longer ends the process that compares.
        lag_s: The lag horizon: what differs is read again after it, and after three times as long.
        rereads: Differences that wait to be read again.
        noise_percent: Share of mirrored reads for which the serving side is asked twice, until enough is learnt.
    """

    queue: int = 1000
    queue_bytes: int = 32 << 20
    concurrency: int = 64
    deadline_s: float = 30.0
    waiting_s: float = 5.0
    body_bytes: int = 1 << 20
    compare_s: float = 10.0
    lag_s: float = 5.0
    rereads: int = 256
    noise_percent: float = 5.0
