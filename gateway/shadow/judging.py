"""What a verdict is worth: matches count at once; what differs is read again, twice, before it counts as a mismatch.

differs -> suspected -> read again after H -> and after 3 H -> mismatch, where it differed in one place all three times
                          gone in either                       -> match
                          the serving side is not sure itself  -> incomparable
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from gateway.core.compare.answers import Answer, Pairing, Result, Verdict, Why, is_same
from gateway.core.compare.evidence import Finding, Found
from gateway.core.compare.noise import NoiseCounts
from gateway.core.compare.rules import ComparisonRules
from gateway.core.compare.tree import Difference
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Side
from gateway.core.rereading import Overflow, Place, places, unshaken
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import EvidenceSink, Rehearsals, ServedRead, ShadowObserver
from gateway.shadow.budget import OVERHEAD_BYTES, Budget, Holding, Level, size_of_request
from gateway.shadow.comparing import Comparing
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import NoRoomError
from gateway.shadow.standing import Standing

REREADS_AT_ONCE: Final = 8
_SERVER_ERROR: Final = 500
_MATCH: Final = "match"
_SETTLED: Final = "settled"
_INCOMPARABLE: Final = "incomparable:"
_REREAD_FAILED: Final = "reread_failed"
_UNSTABLE: Final = "unstable"
"""Where the sides differ, the serving side differs from itself a moment later."""
_STOPPED: Final = "stopped"
_STAGE_CHANGED: Final = "stage_changed"
_TOO_NOISY: Final = "too_noisy"

FetchAgain = Callable[[ServedRead, Side, Holding], Awaitable[Answer]]
"""Reads again from a side; raises as `recording.fetch`."""


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """A read whose answers differ.

    Attributes:
        read: As it was served.
        differences: Where.
        rules: Version of the rules that say so.
        is_rehearsed: A drill has made it, whatever it comes to.
    """

    read: ServedRead
    differences: tuple[Difference, ...]
    rules: str
    is_rehearsed: bool

    @property
    def operation(self) -> str:
        """Its operation's name."""
        return self.read.plan.operation.name


_log = structlog.get_logger("crossfade.shadow")


class _InconclusiveError(Exception):
    """Reading again told nothing.

    Attributes:
        why: In a word.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Judge:
    """Judges pairs of answers.

    Attributes:
        noise: What was seen of noise, by operation.
    """

    def __init__(
        self,
        comparing: Comparing,
        fetch_again: FetchAgain,
        budget: Budget,
        limits: ShadowLimits,
        observer: ShadowObserver,
        evidence: EvidenceSink,
        rules_of: Callable[[str], ComparisonRules],
        standing: Standing,
        rehearsals: Rehearsals,
    ) -> None:
        """Judges nothing yet; needs a running loop.

        Args:
            comparing: Compares what is not equal byte by byte.
            fetch_again: Reads again.
            budget: Of what is held.
            limits: Bounds.
            observer: Counts.
            evidence: Keeps what differs.
            rules_of: The rules of an operation, with what was learnt.
            standing: What the policy says by now.
            rehearsals: What of it is a drill's.
        """
        self._comparing = comparing
        self._fetch_again = fetch_again
        self._budget = budget
        self._limits = limits
        self._observer = observer
        self._evidence = evidence
        self._rules_of = rules_of
        self._standing = standing
        self._rehearsals = rehearsals
        self._loop = asyncio.get_running_loop()
        self._rereading: set[asyncio.Task[tuple[Difference, ...]]] = set()
        self._gate = asyncio.Semaphore(REREADS_AT_ONCE)
        self._overflow = Overflow()
        self._is_closed = False
        self.noise: dict[str, NoiseCounts] = {}
        self._too_noisy: set[str] = set()

    @property
    def rereading(self) -> int:
        """Differences that wait to be read again."""
        return len(self._rereading)

    def judge(self, read: ServedRead, served: Answer, other: Answer | None, holding: Holding) -> None:
        """Judges a pair.

        Args:
            read: What was asked.
            served: What the client got.
            other: The other side's answer; None: it failed.
            holding: What is held for it; owned from here on.
        """
        operation = read.plan.operation.name
        why = self._why_not(read, other)
        if why is not None or other is None:
            holding.release()
            self._count(read, f"{_INCOMPARABLE}{why}")
            return
        rules = self._rules_of(operation)
        if rules.is_comparable and is_same(served, other, rules.headers):
            # Most answers are: neither pipe nor process need to know of them.
            self._take(read, _SAME, "", holding)
            return

        def judged(verdict: Verdict | None, version: str) -> None:
            if verdict is None:
                holding.release()
                self._observer.mirrored(operation, Unmirrored.COMPARISON_LOST)
            else:
                self._take(read, verdict, version, holding)

        held = self._comparing.submit(operation, served, other, pairing_of(read), judged)
        holding.become(held + size_of_request(read.request))

    def learn(self, read: ServedRead, served: Answer, again: Answer, holding: Holding) -> None:
        """Compares two answers of the serving side.

        Args:
            read: What was asked.
            served: What the client got.
            again: What was answered to the same a moment later.
            holding: What is held for it; owned from here on.
        """
        operation = read.plan.operation.name

        def judged(verdict: Verdict | None, version: str) -> None:
            holding.release()
            if verdict is not None and verdict.result is not Result.INCOMPARABLE:
                self._noise_of(operation).note_pair(verdict.differences, verdict.leaves, version)

        held = self._comparing.submit(operation, served, again, pairing_of(read), judged, with_leaves=True)
        holding.become(held)

    def learnt(self, operation: str) -> int:
        """Pairs of one side that were compared here."""
        known = self.noise.get(operation)
        return known.pairs if known is not None else 0

    def mark_too_noisy(self, operation: str, *, is_so: bool) -> None:
        """Says whether so much of an operation is noise that agreement in the rest says little."""
        if is_so:
            self._too_noisy.add(operation)
        else:
            self._too_noisy.discard(operation)

    async def aclose(self) -> None:
        """Gives up what waits to be read again; each is counted."""
        self._is_closed = True
        waiting = list(self._rereading)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    # ---------------------------------------------------------------------------------------------------------------

    def _why_not(self, read: ServedRead, other: Answer | None) -> str | None:
        """Why a pair is not compared, or None."""
        if other is None:
            return Why.CANDIDATE_ERROR if read.side is Side.OLD else Why.BASELINE_ERROR
        if not self._standing.is_same_stage(read):
            return _STAGE_CHANGED
        return _TOO_NOISY if read.plan.operation.name in self._too_noisy else None

    def _take(self, read: ServedRead, verdict: Verdict, version: str, holding: Holding) -> None:
        operation = read.plan.operation.name
        if verdict.result is Result.INCOMPARABLE:
            holding.release()
            self._count(read, f"{_INCOMPARABLE}{verdict.why}")
            return
        is_rehearsed = self._is_rehearsed(read)
        if not is_rehearsed and (operation in self.noise or verdict.differences):
            self._noise_of(operation).note_raw(verdict.differences, version)
        if verdict.result is Result.MATCH:
            holding.release()
            self._observer.compared(operation, _MATCH, is_rehearsed=is_rehearsed)
        else:
            self._suspect(_Suspicion(read, verdict.differences, version, is_rehearsed), holding)

    def _suspect(self, suspicion: _Suspicion, holding: Holding) -> None:
        operation = suspicion.operation
        self._observer.compared(operation, Finding.SUSPECTED, is_rehearsed=suspicion.is_rehearsed)
        self._note(suspicion, Finding.SUSPECTED)
        if self._is_closed:
            holding.release()
            self._settle(suspicion, _INCOMPARABLE + _STOPPED, 1)
        elif len(self._rereading) >= self._limits.rereads and self._overflow.take(operation):
            holding.release()
        else:
            # Of the answers, nothing is needed any more.
            holding.become(size_of_request(suspicion.read.request) + OVERHEAD_BYTES)
            self._overflow.sample(operation)
            task = asyncio.create_task(self._confirmed(suspicion))
            self._rereading.add(task)
            task.add_done_callback(partial(self._settled, suspicion, holding))

    def _settled(
        self, suspicion: _Suspicion, holding: Holding, confirming: asyncio.Task[tuple[Difference, ...]]
    ) -> None:
        """Counts what a suspicion was worth, whatever came: a task may be cancelled before it has begun."""
        self._rereading.discard(confirming)
        holding.release()
        error = None if confirming.cancelled() else confirming.exception()
        match error:
            case _InconclusiveError():
                result = _INCOMPARABLE + error.why
            case None if confirming.cancelled():
                result = _INCOMPARABLE + _STOPPED
            case None:
                result = self._found(suspicion, confirming.result())
            case _:
                _log.error("reread_failed", exc_info=error)
                result = _INCOMPARABLE + _REREAD_FAILED
        self._settle(suspicion, result, self._overflow.settle(suspicion.operation))

    def _found(self, suspicion: _Suspicion, left: tuple[Difference, ...]) -> str:
        if left:
            self._note(replace(suspicion, differences=left), Finding.MISMATCH)
            return Finding.MISMATCH
        self._note(suspicion, Finding.REFUTED)
        return _MATCH

    async def _confirmed(self, suspicion: _Suspicion) -> tuple[Difference, ...]:
        """The differences that are there each time.

        Raises:
            _InconclusiveError: It could not be found out.
        """
        read = suspicion.read
        found = places(suspicion.differences)
        for pause_s in (self._limits.lag_s, 2 * self._limits.lag_s):
            await asyncio.sleep(pause_s)
            async with self._gate:
                self._check_standing(read)
                theirs, own = await self._read_again(read, found)
            self._check_standing(read)
            found &= theirs
            if not found:
                return ()
            found = unshaken(found, own)
            if not found:
                raise _InconclusiveError(_UNSTABLE)
        return tuple(difference for difference in suspicion.differences if (difference.path, difference.kind) in found)

    def _check_standing(self, read: ServedRead) -> None:
        """A kill: nothing is started on new any more. Another stage: the sides may hold other things.

        Raises:
            _InconclusiveError: It ends here.
        """
        if not self._standing.is_wanted(read.plan.operation.name):
            raise _InconclusiveError(_STOPPED)
        if not self._standing.is_same_stage(read):
            raise _InconclusiveError(_STAGE_CHANGED)

    async def _read_again(self, read: ServedRead, found: frozenset[Place]) -> tuple[frozenset[Place], frozenset[Place]]:
        """Reads from the serving side, the other one, and once more the serving one where the two differ as before.

        Returns:
            Where the sides differ, and where the serving side differs from itself.

        Raises:
            _InconclusiveError: One of them cannot be read.
        """
        holding = Holding(self._budget, Level.SECOND_LOOK)
        try:
            served = await self._fetch_again(read, read.side, holding)
            other = await self._fetch_again(read, read.side.other, holding)
            theirs = await self._places(read, served, other, holding)
            if not theirs & found:
                return theirs, frozenset()
            again = await self._fetch_again(read, read.side, holding)
            return theirs, await self._places(read, served, again, holding)
        except RevokedError as exc:
            raise _InconclusiveError(_STOPPED) from exc
        except UpstreamError as exc:
            raise _InconclusiveError(_REREAD_FAILED) from exc
        except NoRoomError as exc:
            raise _InconclusiveError(exc.why) from exc
        finally:
            holding.release()

    async def _places(self, read: ServedRead, left: Answer, right: Answer, holding: Holding) -> frozenset[Place]:
        """Where two answers differ.

        Raises:
            _InconclusiveError: They cannot be compared.
        """
        operation = read.plan.operation.name
        if left.status < _SERVER_ERROR and is_same(left, right, self._rules_of(operation).headers):
            return frozenset()
        judged: asyncio.Future[Verdict | None] = self._loop.create_future()

        def take(verdict: Verdict | None, _: str) -> None:
            if not judged.done():
                judged.set_result(verdict)

        held = self._comparing.submit(operation, left, right, pairing_of(read), take)
        holding.become(holding.size + held)
        verdict = await judged
        holding.become(holding.size - held)
        if verdict is None:
            raise _InconclusiveError(Unmirrored.COMPARISON_LOST)
        if verdict.result is Result.INCOMPARABLE:
            raise _InconclusiveError(str(verdict.why))
        return places(verdict.differences)

    def _settle(self, suspicion: _Suspicion, result: str, count: int) -> None:
        for each in (_SETTLED, result):
            self._observer.compared(suspicion.operation, each, count, is_rehearsed=suspicion.is_rehearsed)

    def _count(self, read: ServedRead, result: str) -> None:
        self._observer.compared(read.plan.operation.name, result, is_rehearsed=self._is_rehearsed(read))

    def _is_rehearsed(self, read: ServedRead) -> bool:
        return self._rehearsals.rehearses(read.plan.operation.name, read.key)

    def _note(self, suspicion: _Suspicion, finding: Finding) -> None:
        """Keeps what differs, but for what a drill has made differ."""
        if suspicion.is_rehearsed:
            return
        self._evidence.note(
            Found(
                operation=suspicion.operation,
                finding=finding,
                differences=suspicion.differences,
                request_id=suspicion.read.request_id.decode("latin-1"),
                serving=suspicion.read.side.value,
                rules=suspicion.rules,
                at=time.time(),
            )
        )

    def _noise_of(self, operation: str) -> NoiseCounts:
        return self.noise.setdefault(operation, NoiseCounts())


_SAME: Final = Verdict(Result.MATCH)


def pairing_of(read: ServedRead) -> Pairing:
    """What the answers to a read answer; the left one is the serving side's."""
    return Pairing(read.is_mcp, read.side is Side.OLD, read.plan.operation.failure_codes)
