"""The time that a request takes of its side: not what its client took, nor how long a stream goes on.

Pure: who asks gives the time. It must not know sides, policies or connections.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.core.model import Deadlines, Headers

_LEAST_S = 0.001


class Waiting:
    """A request that waits for a side. Call `given` whenever it is given to one, which is before any answer has begun.

    Args:
        now: Monotonic seconds, as everywhere here; its head is complete.

    Attributes:
        began: Monotonic seconds, when it was given to its side; before that, when its head was complete.
        has_begun: Whether its answer comes already, in pieces.
        is_late: It was counted as too slow while it waited.
        awaits_event: A stream has begun, and its first event has not come.
    """

    __slots__ = ("_client_s", "_first_at", "_spent_s", "awaits_event", "began", "has_begun", "is_late")

    def __init__(self, now: float) -> None:
        self.began = now
        self.has_begun = False
        self.is_late = False
        self.awaits_event = False
        self._client_s = 0.0
        self._first_at: float | None = None
        self._spent_s = 0.0

    def given(self, now: float) -> None:
        """From here on it is the side's time; what a client took to send its body was its own."""
        self.began, self._client_s = now, 0.0

    def begin_answer(self, headers: Headers) -> None:
        """The answer comes in pieces: the side is not silent, and a stream is as fast as its first event."""
        self.has_begun = True
        self.awaits_event = any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers
        )

    def first_event_came(self, now: float) -> None:
        """How long a stream goes on from here says nothing about the side."""
        self._first_at, self.awaits_event = now, False

    def client_waited(self, seconds: float) -> None:
        """The exchange stood still because of the client, who sends or reads slowly: no time of the side's."""
        self._client_s += seconds

    def pass_on(self, now: float) -> None:
        """Old is asked in place of new: what new took is no time of old's."""
        self._spent_s, self.began, self.is_late = now - self.began, now, False

    def taken_s(self, now: float) -> float:
        """Seconds that the side has taken by now."""
        if self._first_at is not None:
            now = self._first_at
        return max(0.0, now - self.began - self._client_s)

    def is_used_up(self, now: float, deadlines: Deadlines) -> bool:
        """Whether nothing is left of the time that the request has."""
        return deadlines.total_s is not None and now - self.began >= deadlines.total_s

    def left_of(self, deadlines: Deadlines) -> Deadlines:
        """Deadlines of an operation, less what another side took before."""
        if not self._spent_s or deadlines.total_s is None:
            return deadlines
        return replace(deadlines, total_s=max(deadlines.total_s - self._spent_s, _LEAST_S))
