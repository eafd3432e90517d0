"""Sends copies of served reads to the other side: from a bounded queue, few at once, fewer when that side is slow.

Sheds before it costs the serving path anything: what finds the queue full, or waits too long in it, is counted and
gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gateway.core.compare.answers import Answer
from gateway.core.mirroring import Unmirrored
from gateway.core.model import ErrorCode, Side
from gateway.core.outcome import Outcome
from gateway.core.pacing import Pace
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import ServedRead, ShadowObserver
from gateway.shadow.budget import Holding, Level
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import Fetch, NoRoomError
from gateway.shadow.standing import Standing

_SERVER_ERROR: Final = 500
_TOO_MUCH: Final = frozenset({429, 502, 503, 504})
_ABSENT: Final = frozenset(
    {ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_REFUSED, ErrorCode.UPSTREAM_RESET, ErrorCode.NO_UPSTREAM}
)
_OURS: Final = {ErrorCode.OVERLOADED: Unmirrored.QUEUE_FULL, ErrorCode.BAD_REQUEST: Unmirrored.UNSENDABLE}
"""What our own client refuses says nothing of the side."""


@dataclass(slots=True, eq=False)
class Job:
    """A read whose answer was given, on its way to a verdict.

    Attributes:
        read: As it was served.
        served: The answer that the client got.
        holding: What is held for it.
        at: When it was queued; loop time.
    """

    read: ServedRead
    served: Answer
    holding: Holding
    at: float


@dataclass(slots=True)
class _Running:
    receiver: Fetch
    begun: float


class Copier:
    """The queue of copies for one side, and those on their way."""

    def __init__(
        self,
        side: Side,
        send: Callable[[ServedRead, Fetch], None],
        limits: ShadowLimits,
        observer: ShadowObserver,
        standing: Standing,
        sent: Callable[[Job], None],
        done: Callable[[Job, Answer | None], None],
    ) -> None:
        """Sends nothing yet; needs a running loop.

        Args:
            side: Who gets the copies.
            send: Sends one; may raise an `UpstreamError`, else its receiver hears how it ends.
            limits: Bounds.
            observer: Is told what happened.
            standing: Whether an operation is still mirrored.
            sent: Is told of a job whose copy is on its way now.
            done: Takes a job with the other side's answer, or None when it failed. Then owns the job.
        """
        self.pace = Pace(limits.concurrency)
        self._side = side
        self._send_copy = send
        self._limits = limits
        self._observer = observer
        self._standing = standing
        self._sent = sent
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Job] = deque()
        self._running: dict[Job, _Running] = {}

    @property
    def queued(self) -> int:
        """Copies that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Copies on their way."""
        return len(self._running)

    def offer(self, job: Job) -> None:
        """Takes a job, and owns it; where there is no room for it, it is counted and gone."""
        self._expire()
        self._look_for_hangs()
        if len(self._queue) >= self._limits.queue:
            self._drop(job, Unmirrored.QUEUE_FULL)
            return
        self._queue.append(job)
        self._advance()

    def policy_changed(self) -> None:
        """Forgets what waits and is not mirrored any more."""
        kept = deque(job for job in self._queue if self._standing.is_wanted(job.read.plan.operation.name))
        if len(kept) != len(self._queue):
            before, self._queue = self._queue, kept
            for job in before:
                if not self._standing.is_wanted(job.read.plan.operation.name):
                    self._drop(job, Unmirrored.KILL)

    def close(self) -> None:
        """Forgets what waits and gives up what is on its way."""
        while self._queue:
            self._drop(self._queue.popleft(), Unmirrored.STOPPED)
        running, self._running = self._running, {}
        for job, way in running.items():
            if way.receiver.call is not None:
                way.receiver.call.abandon()
            self._drop(job, Unmirrored.STOPPED)

    # ---------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._expire()
        while self._queue and len(self._running) < self.pace.limit:
            job = self._queue.popleft()
            if self._standing.is_wanted(job.read.plan.operation.name):
                self._send(job)
            else:
                self._drop(job, Unmirrored.KILL)

    def _expire(self) -> None:
        """Makes room for what is fresh."""
        too_late = self._loop.time() - self._limits.waiting_s
        while self._queue and self._queue[0].at < too_late:
            self._drop(self._queue.popleft(), Unmirrored.TOO_LATE)

    def _look_for_hangs(self) -> None:
        if self._queue and self._running:
            now = self._loop.time()
            # They stand in the order in which they were sent.
            job, way = next(islice(self._running.items(), (len(self._running) - 1) // 2, None))
            self.pace.waited(job.read.plan.operation.name, now - way.begun, now)

    def _drop(self, job: Job, why: Unmirrored) -> None:
        job.holding.release()
        self._observer.mirrored(job.read.plan.operation.name, why)

    def _send(self, job: Job) -> None:
        def answered(answer: Answer) -> None:
            self._answered(job, answer)

        def failed(error: BaseException) -> None:
            self._failed(job, error)

        # What is on its way comes before what is new.
        job.holding.level = Level.COPY
        receiver = Fetch(self._limits.body_bytes, job.holding, answered, failed)
        self._running[job] = _Running(receiver, self._loop.time())
        self._observer.mirrored(job.read.plan.operation.name, "sent")
        try:
            self._send_copy(job.read, receiver)
        except UpstreamError as error:
            # In the loop's next turn: whoever offered must not be called back meanwhile.
            self._loop.call_soon(receiver.exchange_failed, error)
        self._sent(job)

    def _answered(self, job: Job, answer: Answer) -> None:
        running = len(self._running)
        way = self._running.pop(job, None)
        if way is None:
            return
        now = self._loop.time()
        self._tell(job, Outcome.FAILURE if answer.status >= _SERVER_ERROR else Outcome.OK, now - way.begun)
        if answer.status in _TOO_MUCH:
            self.pace.refused(now)
        elif answer.status < _SERVER_ERROR:
            self.pace.answered(job.read.plan.operation.name, now - way.begun, running, now)
        self._done(job, answer)
        self._advance()

    def _failed(self, job: Job, error: BaseException) -> None:
        way = self._running.pop(job, None)
        if way is None:
            return
        now = self._loop.time()
        match error:
            case NoRoomError():
                # No failure of the side, and nothing to compare.
                self._tell(job, Outcome.OK, now - way.begun)
                self._drop(job, error.why)
            case RevokedError():
                self._drop(job, Unmirrored.KILL)
            case UpstreamError() if error.code in _OURS:
                self._drop(job, _OURS[error.code])
            case _:
                self._tell(job, Outcome.FAILURE, now - way.begun)
                if not isinstance(error, UpstreamError) or error.code in _ABSENT:
                    self.pace.refused(now)
                self._done(job, None)
        self._advance()

    def _tell(self, job: Job, outcome: Outcome, seconds: float) -> None:
        self._observer.mirror_answered(job.read.plan.operation.name, self._side, outcome, seconds)
