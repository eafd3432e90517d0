"""What a verdict is worth: matches count at once; what differs is read again, twice, before it counts as a mismatch.

differs -> suspected -> read again after H -> and after 3 H -> mismatch
                          gone in either    -> match
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from gateway.core.compare.answers import Answer, Pairing, Result, Verdict, Why, is_same
from gateway.core.compare.evidence import Finding, Found, signature_of
from gateway.core.compare.noise import NoiseCounts
from gateway.core.compare.rules import ComparisonRules
from gateway.core.compare.tree import Difference
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Side
from gateway.errors import RevokedError, UpstreamError
from gateway.ports import EvidenceSink, ServedRead, ShadowObserver, Upstream
from gateway.shadow.comparing import Comparing
from gateway.shadow.copies import CopyPolicy, copy_for
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.recording import TooLargeError, fetch

_SERVER_ERROR: Final = 500
_REREAD: Final = "reread_failed"
_STOPPED: Final = "stopped"
_AT_ONCE: Final = 8
_KNOWN: Final = 1000
_SURE_AFTER: Final = 3


class Judge:
    """Judges pairs of answers.

    Attributes:
        noise: What was seen of noise, by operation.
    """

    def __init__(
        self,
        comparing: Comparing,
        sides: Mapping[Side, Upstream],
        policies: Mapping[Side, CopyPolicy],
        limits: ShadowLimits,
        observer: ShadowObserver,
        evidence: EvidenceSink,
        rules_of: Callable[[str], ComparisonRules],
        is_wanted: Callable[[str], bool],
    ) -> None:
        """Judges nothing yet; needs a running loop.

        Args:
            comparing: Compares what is not equal byte by byte.
            sides: The clients of copies.
            policies: What copies carry.
            limits: Bounds.
            observer: Counts.
            evidence: Keeps what differs.
            rules_of: The rules of an operation, with what was learnt.
            is_wanted: Whether an operation is still mirrored.
        """
        self._comparing = comparing
        self._sides = sides
        self._policies = policies
        self._limits = limits
        self._observer = observer
        self._evidence = evidence
        self._rules_of = rules_of
        self._is_wanted = is_wanted
        self._loop = asyncio.get_running_loop()
        self._rereading: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._outcomes: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.noise: dict[str, NoiseCounts] = {}

    @property
    def rereading(self) -> int:
        """Differences that wait to be read again."""
        return len(self._rereading)

    def judge(self, read: ServedRead, served: Answer, other: Answer | None, done: Callable[[], None]) -> None:
        """Judges a pair; `done` is called when the answers are needed no more.

        Args:
            read: What was asked.
            served: What the client got.
            other: The other side's answer; None: it failed.
            done: Lets go of the answers.
        """
        operation = read.plan.operation.name
        if other is None:
            self._incomparable(operation, self._failure(read, served))
            done()
        elif self._rules_of(operation).is_comparable and is_same(served, other, self._rules_of(operation).headers):
            # Most answers are: neither pipe nor process need to know of them.
            self._take(read, Verdict(Result.MATCH) if served.status < _SERVER_ERROR else _BOTH_FAILED, "")
            done()
        else:

            def judged(verdict: Verdict | None, version: str) -> None:
                done()
                if verdict is None:
                    self._observer.mirrored(operation, Unmirrored.COMPARISON_LOST)
                else:
                    self._take(read, verdict, version)

            self._comparing.submit(operation, served, other, pairing_of(read), judged)

    def learn(self, read: ServedRead, served: Answer, again: Answer) -> None:
        """Compares two answers of the serving side."""
        operation = read.plan.operation.name

        def judged(verdict: Verdict | None, version: str) -> None:
            if verdict is not None and verdict.result is not Result.INCOMPARABLE:
                self._noise_of(operation).note_pair(verdict.differences, verdict.leaves, version)

        self._comparing.submit(operation, served, again, pairing_of(read), judged, with_leaves=True)

    def learnt(self, operation: str) -> int:
        """Pairs of one side that were compared here."""
        known = self.noise.get(operation)
        return known.pairs if known is not None else 0

    async def aclose(self) -> None:
        """Gives up what waits to be read again; each is counted."""
        waiting = list(self._rereading)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    # ---------------------------------------------------------------------------------------------------------------

    def _take(self, read: ServedRead, verdict: Verdict, version: str) -> None:
        operation = read.plan.operation.name
        if verdict.result is Result.INCOMPARABLE:
            self._incomparable(operation, str(verdict.why))
            return
        if operation in self.noise or verdict.differences:
            self._noise_of(operation).note_raw(verdict.differences, version)
        if verdict.result is Result.MATCH:
            self._observer.compared(operation, _MATCH)
        else:
            self._suspect(read, verdict.differences, version)

    def _suspect(self, read: ServedRead, differences: tuple[Difference, ...], version: str) -> None:
        operation = read.plan.operation.name
        signature = signature_of(operation, differences)
        if len(self._rereading) >= self._limits.rereads:
            self._infer(read, differences, version, signature)
            return
        self._observer.compared(operation, Finding.SUSPECTED)
        self._note(read, Finding.SUSPECTED, differences, version)
        task = asyncio.create_task(self._confirm(read, differences, version, signature))
        self._rereading.add(task)
        task.add_done_callback(self._rereading.discard)

    def _infer(self, read: ServedRead, differences: tuple[Difference, ...], version: str, signature: str) -> None:
        """More differ than can be read again: one that was always confirmed counts, any other is left out."""
        confirmed, refuted = self._outcomes.get(signature, (0, 0))
        operation = read.plan.operation.name
        if confirmed >= _SURE_AFTER and not refuted:
            self._observer.compared(operation, Finding.MISMATCH)
            self._note(read, Finding.MISMATCH, differences, version)
        else:
            self._observer.mirrored(operation, Unmirrored.COMPARISON_FULL)

    async def _confirm(
        self, read: ServedRead, differences: tuple[Difference, ...], version: str, signature: str
    ) -> None:
        operation = read.plan.operation.name
        found = _places(differences)
        result = f"incomparable:{_STOPPED}"
        try:
            for pause_s in (self._limits.lag_s, 2 * self._limits.lag_s):
                await asyncio.sleep(pause_s)
                async with self._gate:
                    # A kill: nothing is started on new any more.
                    if not self._is_wanted(operation):
                        return
                    verdict = await self._read_again(read)
                if verdict is None or verdict.result is Result.INCOMPARABLE:
                    result = f"incomparable:{verdict.why if verdict is not None else _REREAD}"
                    return
                if not found & _places(verdict.differences):
                    result = _MATCH
                    self._remember(signature, confirmed=False)
                    self._note(read, Finding.REFUTED, differences, version)
                    return
            result = Finding.MISMATCH
            self._remember(signature, confirmed=True)
            self._note(read, Finding.MISMATCH, differences, version)
        finally:
            self._observer.compared(operation, "settled")
            self._observer.compared(operation, result)

    async def _read_again(self, read: ServedRead) -> Verdict | None:
        """Asks both sides at once; None: one of them cannot be read."""
        limits = self._limits
        answers = await asyncio.gather(
            *(
                fetch(
                    self._sides[side],
                    copy_for(read, side, self._policies, limits.deadline_s),
                    read.key,
                    limits.body_bytes,
                )
                for side in (read.side, read.side.other)
            ),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, _UNREAD):
                raise answer
        left, right = answers
        if isinstance(left, BaseException) or isinstance(right, BaseException):
            return None
        judged: asyncio.Future[Verdict | None] = self._loop.create_future()

        def take(verdict: Verdict | None, _: str) -> None:
            if not judged.done():
                judged.set_result(verdict)

        self._comparing.submit(read.plan.operation.name, left, right, pairing_of(read), take)
        return await judged

    def _failure(self, read: ServedRead, served: Answer) -> str:
        """What it is called that the other side gave no answer."""
        if served.status >= _SERVER_ERROR:
            return Why.BOTH_FAILED
        return Why.CANDIDATE_ERROR if read.side is Side.OLD else Why.BASELINE_ERROR

    def _incomparable(self, operation: str, why: str) -> None:
        self._observer.compared(operation, f"incomparable:{why}")

    def _note(self, read: ServedRead, finding: Finding, differences: tuple[Difference, ...], version: str) -> None:
        self._evidence.note(
            Found(
                operation=read.plan.operation.name,
                finding=finding,
                differences=differences,
                request_id=read.request_id.decode("latin-1"),
                serving=read.side.value,
                rules=version,
                at=time.time(),
            )
        )

    def _remember(self, signature: str, *, confirmed: bool) -> None:
        before = self._outcomes.pop(signature, (0, 0))
        self._outcomes[signature] = (before[0] + confirmed, before[1] + (not confirmed))
        if len(self._outcomes) > _KNOWN:
            self._outcomes.popitem(last=False)

    def _noise_of(self, operation: str) -> NoiseCounts:
        return self.noise.setdefault(operation, NoiseCounts())


_MATCH: Final = "match"
_BOTH_FAILED: Final = Verdict(Result.INCOMPARABLE, Why.BOTH_FAILED)
_UNREAD: Final = (UpstreamError, RevokedError, TooLargeError)


def pairing_of(read: ServedRead) -> Pairing:
    """What the answers to a read answer; the left one is the serving side's."""
    return Pairing(read.is_mcp, read.side is Side.OLD, read.plan.operation.failure_codes)


def _places(differences: tuple[Difference, ...]) -> set[tuple[str, str]]:
    return {(difference.path, difference.kind.value) for difference in differences}
