"""Hands pairs to the process that compares, and their verdicts back.

Only so many bytes are written ahead of it: what waits, waits here, where it can be counted and outlives the process. A
process that is stuck, killed or talks nonsense costs the one pair that it was at; all others are given to the next.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.core.compare.answers import Answer, Pairing, Verdict
from gateway.core.compare.rules import ComparisonRules
from gateway.shadow.frames import REPLY, pair_frame, read_verdict, rules_frame

_PAUSES_S: Final = (0.1, 0.5, 2.0, 5.0)
_HEALTHY_S: Final = 30.0
"""A life so long was a good one: the next one need not wait for it."""
_HOPELESS: Final = 5
"""After so many lives in a row without a verdict, nothing is kept for the next."""
_AHEAD_BYTES: Final = 1 << 20
_REPLY_BYTES: Final = 16 << 20

Judged = Callable[[Verdict | None, str], None]
"""Takes a verdict and the version of the rules; None: it was lost."""

_log = structlog.get_logger("crossfade.shadow")


class NonsenseError(Exception):
    """The process said what no such process says."""


@dataclass(slots=True, repr=False)
class _Pair:
    """What is asked.

    Attributes:
        number: Names it.
        frame: As it is written.
        judged: Called once, in any case.
        begun: When the process came to it; loop time.
    """

    number: int
    frame: bytes
    judged: Judged
    begun: float = 0.0


class Comparing:
    """The process, what it is at, and what waits for it.

    Attributes:
        restarts: Times that it was started again.
        held_bytes: Of the pairs that were asked about.
    """

    def __init__(self, compare_s: float, command: Sequence[str]) -> None:
        """Starts nothing; needs a running loop.

        Args:
            compare_s: A pair that takes longer ends the process.
            command: The process; see `compare_process.command`.
        """
        self._compare_s = compare_s
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._running: asyncio.Task[None] | None = None
        # As written: pairs are judged in this order.
        self._asked: deque[_Pair] = deque()
        self._ahead = 0
        self._waiting: deque[_Pair] = deque()
        self._number = 0
        self._rules: bytes | None = None
        self._fruitless = 0
        self._short = 0
        self._is_closed = False
        self.restarts = 0
        self.held_bytes = 0

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def waiting(self) -> int:
        """Pairs that were asked about."""
        return len(self._asked) + len(self._waiting)

    def use(self, rules: Mapping[str, ComparisonRules], secret: bytes) -> None:
        """Compares by these rules from now on."""
        self._rules = rules_frame({name: found.document() for name, found in rules.items()}, secret.hex())
        self._write(self._rules)

    def submit(
        self,
        operation: str,
        left: Answer,
        right: Answer,
        pairing: Pairing,
        judged: Judged,
        *,
        with_leaves: bool = False,
    ) -> int:
        """Asks about a pair; `judged` is called later, in any case.

        Returns:
            The bytes that are held for it until then; the answers themselves are needed no more.
        """
        self._number += 1
        frame = pair_frame(self._number, operation, left, right, pairing, with_leaves=with_leaves)
        if self._is_closed:
            self._loop.call_soon(judged, None, "")
            return 0
        if self._running is None:
            self._start()
        self._waiting.append(_Pair(self._number, frame, judged))
        self.held_bytes += len(frame)
        self._advance()
        return len(frame)

    async def aclose(self) -> None:
        """Ends the process."""
        self._is_closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._lose_all()
        # Whoever waits has heard of it when this returns.
        await asyncio.sleep(0)

    # ---------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Writes what may be written."""
        while (
            self._process is not None
            and self._waiting
            and (not self._asked or self._ahead + len(self._waiting[0].frame) <= _AHEAD_BYTES)
        ):
            pair = self._waiting.popleft()
            if not self._asked:
                pair.begun = self._loop.time()
            self._asked.append(pair)
            self._ahead += len(pair.frame)
            self._write(pair.frame)

    def _write(self, frame: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(frame)

    def _start(self) -> None:
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        """Nothing but the end of the worker may end it."""
        if self._is_closed or running.cancelled():
            return
        _log.error("comparison_ended", exc_info=running.exception())
        self._lose_all()
        self._start()

    async def _run(self) -> None:
        while True:
            born = self._loop.time()
            try:
                await self._live()
            except OSError as exc:
                _log.error("comparison_not_started", why=exc.strerror)
                self._lose_all()
            except NonsenseError as exc:
                _log.error("comparison_nonsense", why=str(exc))
            finally:
                self._process = None
                self._bury()
            self.restarts += 1
            self._fruitless += 1
            self._short = 1 if self._loop.time() - born >= _HEALTHY_S else self._short + 1
            pause_s = _PAUSES_S[min(self._short, len(_PAUSES_S)) - 1]
            _log.warning("comparison_restarted", pause_s=pause_s, waiting=self.waiting)
            await asyncio.sleep(pause_s)

    async def _live(self) -> None:
        """One life of the process.

        Raises:
            OSError: It cannot be started.
            NonsenseError: It said what cannot be understood.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=_environment(), limit=_REPLY_BYTES
        )
        watching = asyncio.create_task(self._watch(process))
        try:
            self._process = process
            if self._rules is not None:
                self._write(self._rules)
            self._advance()
            await self._read(process)
        finally:
            watching.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _read(self, process: Process) -> None:
        """Takes verdicts until there are no more."""
        assert process.stdout is not None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = REPLY.unpack(await process.stdout.readexactly(REPLY.size))
                if length > _REPLY_BYTES:
                    raise NonsenseError("a reply without an end")
                self._take(await process.stdout.readexactly(length))

    def _take(self, text: bytes) -> None:
        """One verdict.

        Raises:
            NonsenseError: It is none, or not of the pair whose turn it is.
        """
        try:
            reply: dict[str, Any] = json.loads(text)
            number, version, verdict = reply["id"], reply["rules"], read_verdict(reply)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            # Another version of ourselves, or memory gone wrong. What it holds was made from what services sent.
            raise NonsenseError(type(exc).__name__) from exc
        if not self._asked or self._asked[0].number != number:
            raise NonsenseError("a verdict that nobody waits for")
        pair = self._asked.popleft()
        self._ahead -= len(pair.frame)
        if self._asked:
            self._asked[0].begun = self._loop.time()
        self._fruitless = 0
        self._advance()
        self._tell(pair, verdict, version)

    async def _watch(self, process: Process) -> None:
        """Ends a process that is stuck: with one pair, however many wait behind it."""
        suspect: _Pair | None = None
        while True:
            await asyncio.sleep(self._compare_s / 4)
            first = self._asked[0] if self._asked else None
            is_late = first is not None and self._loop.time() - first.begun > self._compare_s
            if is_late and first is suspect:
                _log.warning("comparison_stuck", after_s=self._compare_s)
                process.kill()
                return
            # At the second look: it may be us who had no time to read its verdict.
            suspect = first if is_late else None

    def _tell(self, pair: _Pair, verdict: Verdict | None, version: str) -> None:
        self.held_bytes -= len(pair.frame)
        # In the loop's next turn: whoever fails to take it must not take the process along.
        self._loop.call_soon(pair.judged, verdict, version)

    def _bury(self) -> None:
        """The process is gone: what it was at is lost, what waited behind it is asked again."""
        if self._asked:
            lost = self._asked.popleft()
            self._waiting.extendleft(reversed(self._asked))
            self._asked.clear()
            self._ahead = 0
            self._tell(lost, None, "")
        if self._fruitless >= _HOPELESS:
            self._lose_all()

    def _lose_all(self) -> None:
        lost = [*self._asked, *self._waiting]
        self._asked.clear()
        self._waiting.clear()
        self._ahead = 0
        for pair in lost:
            self._tell(pair, None, "")


def _environment() -> dict[str, str]:
    """No secrets of ours: it reads what services wrote."""
    return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
