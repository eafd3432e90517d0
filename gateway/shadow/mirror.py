"""The shadow of one worker, put together: what the lanes see of it, and what becomes of a read from there on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from gateway.core.compare.answers import Answer
from gateway.core.compare.noise import ENOUGH_PAIRS, learn
from gateway.core.compare.rules import ComparisonRules, Relax
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Definition, Side, Stage, Writes
from gateway.core.snapshot import Plan
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import EvidenceSink, Rehearsals, ServedRead, ShadowObserver, Upstream, UpstreamRequest, Witness
from gateway.shadow.budget import Budget, Holding, Level, size_of_fields, size_of_request
from gateway.shadow.compare_process import command
from gateway.shadow.comparing import Comparing
from gateway.shadow.copier import Copier, Job
from gateway.shadow.copies import CopyPolicy, copy_for, holds_secret_of, is_trusted
from gateway.shadow.judging import REREADS_AT_ONCE, Judge
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import Fetch, NoRoomError, Recording, fetch
from gateway.shadow.standing import Standing

_LEARNING_AT_ONCE: Final = 8
_MOVED: Final = frozenset({Stage.LIVE, Stage.RAMPDOWN})
_PERCENT: Final = 100

OWN_CONNECTIONS: Final = REREADS_AT_ONCE + _LEARNING_AT_ONCE
"""To each side, besides those of copies: what is read again must not wait for copies that hang."""


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
        plan_of: Callable[[str], Plan | None],
        rehearsals: Rehearsals,
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
            plan_of: The plan in force of an operation: a kill is not outrun by who waits.
            rehearsals: What of it is a drill's.
            draw: Random numbers from 0 to 1, for the sample that is learnt from.
            secret: Key of digests in evidence.
        """
        self._limits = limits
        self._observer = observer
        self._standing = Standing(plan_of)
        self._rehearsals = rehearsals
        self._draw = draw
        self._secret = secret
        self._sides = sides
        # One mapping for all parts, changed in place: nobody goes on with a trust that was taken back.
        self._policies = dict(policies)
        self._loop = asyncio.get_running_loop()
        self._relaxed: Mapping[str, Mapping[str, Relax]] = {}
        self._rules: dict[str, ComparisonRules] = {}
        self._learning: set[asyncio.Task[None]] = set()
        self._told: dict[str, dict[str, Any]] = {}
        self._budget = Budget(limits.queue_bytes)
        self.comparing = Comparing(limits.compare_s, command(limits.body_bytes))
        self._judge = Judge(
            self.comparing,
            self._fetch_again,
            self._budget,
            limits,
            observer,
            evidence,
            self._rules_of,
            self._standing,
            rehearsals,
        )
        self._copiers = {
            side: Copier(
                side, partial(self._send, side), limits, observer, self._standing, self._copy_sent, self._copied
            )
            for side in Side
        }
        self._use(definition)

    # --- for the lanes ---------------------------------------------------------------------------------------------

    def witness(self, read: ServedRead) -> Witness | None:
        """See `ports.Shadow`."""
        if self._is_unshared(read):
            self._observer.mirrored(read.plan.operation.name, Unmirrored.UNSHARED)
            return None
        holding = Holding(self._budget, Level.NEW)
        if not holding.grow(size_of_request(read.request)):
            self._observer.mirrored(read.plan.operation.name, self._full())
            return None

        def done(answer: Answer) -> None:
            self._offer(Job(read, answer, holding, self._loop.time()))

        def lost(why: Unmirrored) -> None:
            self._observer.mirrored(read.plan.operation.name, why)

        return Recording(self._limits.body_bytes, holding, self._full, done, lost)

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

    def next_noise(self) -> tuple[str, dict[str, Any]] | None:
        """An operation of whose noise more was seen since it was given away here, and what was; None: there is none.

        One at a time, in turn, and judged on the way: all of them together would take the loop tens of milliseconds.
        """
        fresh = [name for name in self._judge.noise if name not in self._told]
        for name in (*fresh, *self._told):
            blob = self._judge.noise[name].blob()
            if blob != self._told.pop(name, None):
                self._told[name] = blob
                self._judge.mark_too_noisy(name, is_so=learn(blob, {}).is_too_noisy)
                return name, blob
            self._told[name] = blob
        return None

    def policy_changed(self) -> None:
        """Another policy is in force: what waits and is not mirrored any more goes."""
        for copier in self._copiers.values():
            copier.policy_changed()

    def state(self) -> dict[str, int]:
        """How it stands now, for metrics."""
        copiers = self._copiers.values()
        return {
            "queued": sum(copier.queued for copier in copiers),
            "running": sum(copier.running for copier in copiers),
            **{f"cap_{side}": copier.pace.limit for side, copier in self._copiers.items()},
            "held_bytes": self._budget.held,
            "comparing": self.comparing.waiting,
            "rereading": self._judge.rereading,
        }

    async def aclose(self) -> None:
        """Ends everything; what was not judged is counted."""
        for copier in self._copiers.values():
            copier.close()
        for task in self._learning:
            task.cancel()
        await asyncio.gather(*self._learning, return_exceptions=True)
        # In this order: a verdict that comes late finds a judge who counts it.
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

    def _is_unshared(self, read: ServedRead) -> bool:
        """Whether the other side cannot know what this one was told.

        Up to `shadow_read` an operator may have copied what old holds. From `live` on each side is told things of its
        own, and nobody carries them over. Of a drill's keys neither side was told anything.
        """
        plan = read.plan
        is_moved = plan.group.writes is Writes.NONE and plan.stage in _MOVED
        return is_moved and not self._rehearsals.compares(plan.operation.name, read.key)

    def _full(self) -> Unmirrored:
        """Which queue it is that fills the budget."""
        is_comparing = self.comparing.held_bytes * 2 > self._budget.held
        return Unmirrored.COMPARISON_FULL if is_comparing else Unmirrored.QUEUE_FULL

    def _offer(self, job: Job) -> None:
        why = self._why_not(job.read)
        if why is not None:
            job.holding.release()
            self._observer.mirrored(job.read.plan.operation.name, why)
        else:
            self._copiers[job.read.side.other].offer(job)

    def _why_not(self, read: ServedRead) -> Unmirrored | None:
        """Why a read that was answered is not mirrored after all."""
        if not self._standing.is_wanted(read.plan.operation.name):
            return Unmirrored.KILL
        # Looked at behind the client's answer, and for such a side alone: it has to be parsed.
        if not is_trusted(read, read.side.other, self._policies) and holds_secret_of(read):
            return Unmirrored.SECRET
        return None

    def _copy(self, read: ServedRead, side: Side) -> UpstreamRequest:
        return copy_for(read, side, self._policies, self._limits.deadline_s, self._standing.holder(read))

    def _send(self, side: Side, read: ServedRead, receiver: Fetch) -> None:
        receiver.call = self._sides[side].send(self._copy(read, side), read.key, receiver)

    async def _fetch_again(self, read: ServedRead, side: Side, holding: Holding) -> Answer:
        return await fetch(self._sides[side], self._copy(read, side), read.key, self._limits.body_bytes, holding)

    def _copied(self, job: Job, answer: Answer | None) -> None:
        self._judge.judge(job.read, job.served, answer, job.holding)

    def _copy_sent(self, job: Job) -> None:
        """Learns beside it, now and then: what the serving side says a second time, at the same moment."""
        if not self._is_learning(job.read.plan.operation.name):
            return
        holding = Holding(self._budget, Level.COPY)
        # Kept once more, since the pair may be through before.
        if holding.grow(len(job.served.body) + size_of_fields(job.served.headers)):
            task = asyncio.create_task(self._learn(job.read, job.served, holding))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    def _is_learning(self, operation: str) -> bool:
        return (
            self._judge.learnt(operation) < ENOUGH_PAIRS
            and len(self._learning) < _LEARNING_AT_ONCE
            and self._draw() * _PERCENT < self._limits.noise_percent
        )

    async def _learn(self, read: ServedRead, served: Answer, holding: Holding) -> None:
        """Asks the serving side once more: what differs between the two is noise."""
        again = None
        try:
            again = await self._fetch_again(read, read.side, holding)
        except (UpstreamError, RevokedError, NoRoomError):
            return
        finally:
            if again is None:
                holding.release()
        self._judge.learn(read, served, again, holding)


_NONE: Final = ComparisonRules()
