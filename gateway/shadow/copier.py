"""Sends copies of served reads to the other side: from a bounded queue, few at once, fewer when that side is slow.

Sheds before it costs the serving path anything: what finds the queue full, or waits too long in it, is counted and
gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.compare.answers import Answer
from gateway.core.mirroring import Unmirrored
from gateway.core.model import ErrorCode, Side
from gateway.core.outcome import Outcome
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import ServedRead, ShadowObserver, Upstream
from gateway.shadow.copies import CopyPolicy, copy_for
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import OVERHEAD_BYTES, Fetch

_SERVER_ERROR: Final = 500
_BACK_OFF_EVERY_S: Final = 1.0
_SIGNS_OF_LOAD: Final = frozenset({ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_REFUSED, ErrorCode.NO_UPSTREAM})


@dataclass(slots=True)
class Job:
    """A read whose answer was given, on its way to a verdict.

    Attributes:
        read: As it was served.
        served: The answer that the client got.
        size: Bytes that are held for it.
        at: When it was queued; loop time.
    """

    read: ServedRead
    served: Answer
    size: int
    at: float


def job_of(read: ServedRead, served: Answer, at: float) -> Job:
    """What a read and its answer take up together."""
    body = read.request.body
    size = len(served.body) + (len(body) if isinstance(body, bytes) else 0) + OVERHEAD_BYTES
    return Job(read, served, size, at)


class Copier:
    """The queue of copies and those on their way.

    Attributes:
        sides: The clients that copies are sent with; their own, never those of served requests.
        policies: What copies carry.
        held: Bytes that are held, until `release` gives them back.
    """

    def __init__(
        self,
        sides: Mapping[Side, Upstream],
        policies: Mapping[Side, CopyPolicy],
        limits: ShadowLimits,
        observer: ShadowObserver,
        is_wanted: Callable[[str], bool],
        done: Callable[[Job, Answer | None], None],
    ) -> None:
        """Sends nothing yet; needs a running loop.

        Args:
            sides: See above.
            policies: By side.
            limits: Bounds.
            observer: Is told what happened.
            is_wanted: Whether an operation is still mirrored: a kill is not outrun by who waits in a queue.
            done: Takes a job with the other side's answer, or None when it failed. Then owns the job.
        """
        self.sides = sides
        self.policies = policies
        self.held = 0
        self._limits = limits
        self._observer = observer
        self._is_wanted = is_wanted
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Job] = deque()
        self._running = 0
        self._cap = float(limits.concurrency)
        self._backed_off_at = 0.0

    @property
    def cap(self) -> int:
        """Copies that may be on their way at once, now."""
        return max(1, int(self._cap))

    @property
    def queued(self) -> int:
        """Copies that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Copies on their way."""
        return self._running

    def offer(self, job: Job) -> bool:
        """Takes a job where there is room; else it is counted and gone."""
        self._expire()
        if len(self._queue) >= self._limits.queue or self.held + job.size > self._limits.queue_bytes:
            self._observer.mirrored(job.read.plan.operation.name, Unmirrored.QUEUE_FULL)
            return False
        self.held += job.size
        self._queue.append(job)
        self._advance()
        return True

    def release(self, job: Job) -> None:
        """The job has come to its end."""
        self.held -= job.size

    def clear(self) -> None:
        """Forgets what waits: a kill, or the end."""
        while self._queue:
            self._drop(self._queue.popleft(), Unmirrored.KILL)

    # ---------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._expire()
        while self._queue and self._running < self.cap:
            job = self._queue.popleft()
            if self._is_wanted(job.read.plan.operation.name):
                self._send(job)
            else:
                self._drop(job, Unmirrored.KILL)

    def _expire(self) -> None:
        """Makes room for what is fresh."""
        too_late = self._loop.time() - self._limits.waiting_s
        while self._queue and self._queue[0].at < too_late:
            self._drop(self._queue.popleft(), Unmirrored.TOO_LATE)

    def _drop(self, job: Job, why: Unmirrored) -> None:
        self._observer.mirrored(job.read.plan.operation.name, why)
        self.release(job)

    def _send(self, job: Job) -> None:
        read = job.read
        side = read.side.other
        begun = self._loop.time()
        self._running += 1

        def answered(answer: Answer) -> None:
            is_failure = answer.status >= _SERVER_ERROR
            self._ended(job, Outcome.FAILURE if is_failure else Outcome.OK, begun)
            self._speed_up()
            self._done(job, answer)
            self._advance()

        def failed(error: BaseException | None) -> None:
            if error is None:
                # Too large is no failure of the side, and nothing to compare.
                self._ended(job, Outcome.OK, begun)
                self._drop(job, Unmirrored.TOO_LARGE)
            elif isinstance(error, RevokedError):
                self._running -= 1
                self._drop(job, Unmirrored.KILL)
            else:
                self._ended(job, Outcome.FAILURE, begun)
                if not isinstance(error, UpstreamError) or error.code in _SIGNS_OF_LOAD:
                    self._back_off()
                self._done(job, None)
            self._advance()

        receiver = Fetch(self._limits.body_bytes, answered, failed)
        self._observer.mirrored(read.plan.operation.name, "sent")
        try:
            request = copy_for(read, side, self.policies, self._limits.deadline_s)
            request.holds = lambda: self._is_wanted(read.plan.operation.name)
            receiver.call = self.sides[side].send(request, read.key, receiver)
        except UpstreamError as error:
            # In the loop's next turn: whoever offered must not be called back meanwhile.
            self._loop.call_soon(failed, error)

    def _ended(self, job: Job, outcome: Outcome, begun: float) -> None:
        self._running -= 1
        read = job.read
        self._observer.mirror_answered(read.plan.operation.name, read.side.other, outcome, self._loop.time() - begun)

    def _speed_up(self) -> None:
        self._cap = min(self._limits.concurrency, self._cap + 1 / self._cap)

    def _back_off(self) -> None:
        # Once in a while: one slow moment fails many at once.
        now = self._loop.time()
        if now - self._backed_off_at >= _BACK_OFF_EVERY_S:
            self._backed_off_at = now
            self._cap = max(1.0, self._cap / 2)
