"""The shadow of one worker, put together: what the lanes see of it, and what becomes of a read from there on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.core.compare.answers import Answer
from gateway.core.compare.noise import ENOUGH_PAIRS
from gateway.core.compare.rules import ComparisonRules, Relax
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Definition, Side
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import EvidenceSink, ServedRead, ShadowObserver, Upstream, Witness
from gateway.shadow.comparing import Comparing
from gateway.shadow.copier import Copier, Job, job_of
from gateway.shadow.copies import CopyPolicy, copy_for
from gateway.shadow.judging import Judge
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import Recording, TooLargeError, fetch

_LEARNING_AT_ONCE: Final = 16
_PERCENT: Final = 100


class Mirror:
    """Implements `ports.Shadow`."""

    def __init__(
        self,
        definition: Definition,
        sides: Mapping[Side, Upstream],
        policies: Mapping[Side, CopyPolicy],
        limits: ShadowLimits,
        observer: ShadowObserver,
        evidence: EvidenceSink,
        is_wanted: Callable[[str], bool],
        draw: Callable[[], float],
        secret: bytes,
    ) -> None:
        """Does nothing yet; needs a running loop.

        Args:
            definition: From the file.
            sides: Clients for copies, of their own.
            policies: What copies carry.
            limits: Bounds.
            observer: Counts.
            evidence: Keeps what differs.
            is_wanted: Whether an operation is still mirrored: a kill is not outrun by who waits in a queue.
            draw: Random numbers from 0 to 1, for the sample that is learnt from.
            secret: Key of digests in evidence.
        """
        self._limits = limits
        self._observer = observer
        self._is_wanted = is_wanted
        self._draw = draw
        self._secret = secret
        self._sides = sides
        # One mapping for all parts, changed in place: nobody goes on with a trust that was taken back.
        self._policies = dict(policies)
        self._loop = asyncio.get_running_loop()
        self._relaxed: Mapping[str, Mapping[str, Relax]] = {}
        self._rules: dict[str, ComparisonRules] = {}
        self._learning: set[asyncio.Task[None]] = set()
        self.comparing = Comparing(limits.compare_s)
        self._judge = Judge(
            self.comparing, sides, self._policies, limits, observer, evidence, self._rules_of, is_wanted
        )
        self._copier = Copier(sides, self._policies, limits, observer, is_wanted, self._copied)
        self._use(definition)

    # --- for the lanes ---------------------------------------------------------------------------------------------

    def witness(self, read: ServedRead) -> Witness | None:
        """See `ports.Shadow`."""
        operation = read.plan.operation.name

        def done(answer: Answer) -> None:
            self._offer(read, answer)

        def lost(why: Unmirrored) -> None:
            self._observer.mirrored(operation, why)

        return Recording(self._limits.body_bytes, done, lost)

    def unmirrored(self, operation: str, why: Unmirrored) -> None:
        """See `ports.Shadow`."""
        self._observer.mirrored(operation, why)

    # --- for the composition root ----------------------------------------------------------------------------------

    def replace_definition(self, definition: Definition, policies: Mapping[Side, CopyPolicy]) -> None:
        """Another definition is in force, with the same two clients behind `sides`."""
        self._policies.update(policies)
        self._use(definition)

    def relax(self, relaxed: Mapping[str, Mapping[str, Relax]]) -> None:
        """Takes what operators have accepted, by operation and path."""
        if relaxed != self._relaxed:
            self._relaxed = relaxed
            self._use(self._definition)

    def use_secret(self, secret: bytes) -> None:
        """Digests are made with this key from now on, as by every other worker."""
        if secret != self._secret:
            self._secret = secret
            self.comparing.use(self._rules, self._secret)

    def noise(self) -> dict[str, Any]:
        """What was seen of noise, by operation, for JSON."""
        return {name: counts.blob() for name, counts in self._judge.noise.items()}

    def state(self) -> dict[str, int]:
        """How it stands now, for metrics."""
        return {
            "queued": self._copier.queued,
            "running": self._copier.running,
            "cap": self._copier.cap,
            "held_bytes": self._copier.held,
            "comparing": self.comparing.waiting,
            "rereading": self._judge.rereading,
        }

    async def aclose(self) -> None:
        """Ends everything; what was not judged is counted."""
        self._copier.clear()
        for task in self._learning:
            task.cancel()
        await asyncio.gather(*self._learning, return_exceptions=True)
        await self._judge.aclose()
        await self.comparing.aclose()

    # ---------------------------------------------------------------------------------------------------------------

    def _use(self, definition: Definition) -> None:
        self._definition = definition
        self._rules = {
            name: operation.comparison.relaxed_by(self._relaxed.get(name, {}))
            for name, operation in definition.operations.items()
        }
        self.comparing.use(self._rules, self._secret)

    def _rules_of(self, operation: str) -> ComparisonRules:
        return self._rules.get(operation, _NONE)

    def _offer(self, read: ServedRead, answer: Answer) -> None:
        operation = read.plan.operation.name
        if not self._is_wanted(operation):
            self._observer.mirrored(operation, Unmirrored.KILL)
            return
        job = job_of(read, answer, self._loop.time())
        if self._copier.offer(job) and self._is_learning(operation):
            task = asyncio.create_task(self._learn(job))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    def _copied(self, job: Job, answer: Answer | None) -> None:
        self._judge.judge(job.read, job.served, answer, lambda: self._copier.release(job))

    def _is_learning(self, operation: str) -> bool:
        return (
            self._judge.learnt(operation) < ENOUGH_PAIRS
            and len(self._learning) < _LEARNING_AT_ONCE
            and self._draw() * _PERCENT < self._limits.noise_percent
        )

    async def _learn(self, job: Job) -> None:
        """Asks the serving side once more, when the other side is asked: what differs between the two is noise."""
        read, limits = job.read, self._limits
        try:
            again = await fetch(
                self._sides[read.side],
                copy_for(read, read.side, self._policies, limits.deadline_s),
                read.key,
                limits.body_bytes,
            )
        except (UpstreamError, RevokedError, TooLargeError):
            return
        self._judge.learn(read, job.served, again)


_NONE: Final = ComparisonRules()
