"""Hands pairs to the process that compares, and their verdicts back. What is lost with it is counted, not awaited."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from gateway.core.compare.answers import Answer, Pairing, Verdict
from gateway.core.compare.rules import ComparisonRules
from gateway.shadow.frames import REPLY, pair_frame, read_verdict, rules_frame

_PAUSES_S: Final = (0.1, 0.5, 2.0, 5.0)
_WATCH_S: Final = 0.5

Judged = Callable[[Verdict | None, str], None]
"""Takes a verdict and the version of the rules; None: it was lost."""

_log = structlog.get_logger("crossfade.shadow")


class Comparing:
    """The process and what it was asked.

    Attributes:
        restarts: Times that it was started again.
    """

    def __init__(self, compare_s: float) -> None:
        """Starts nothing; needs a running loop.

        Args:
            compare_s: A pair that takes longer ends the process.
        """
        self._compare_s = compare_s
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._running: asyncio.Task[None] | None = None
        self._asked: dict[int, tuple[float, Judged]] = {}
        self._number = 0
        self._first: list[bytes] = []
        self._rules: bytes | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def waiting(self) -> int:
        """Pairs that were asked about."""
        return len(self._asked)

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
    ) -> None:
        """Asks about a pair; `judged` is called later, in any case."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        self._number += 1
        self._asked[self._number] = (self._loop.time(), judged)
        frame = pair_frame(self._number, operation, left, right, pairing, with_leaves=with_leaves)
        if self._process is not None:
            self._write(frame)
        else:
            # Bounded by what callers may hold until they are called.
            self._first.append(frame)

    async def aclose(self) -> None:
        """Ends the process."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    # ---------------------------------------------------------------------------------------------------------------

    def _write(self, frame: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(frame)

    async def _run(self) -> None:
        while True:
            try:
                await self._live()
            except OSError as exc:
                _log.error("comparison_not_started", why=exc.strerror)
            finally:
                self._process = None
                self._first.clear()
                self._lose(list(self._asked))
            self.restarts += 1
            pause_s = _PAUSES_S[min(self.restarts, len(_PAUSES_S)) - 1]
            _log.warning("comparison_restarted", pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _live(self) -> None:
        """One life of the process."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway.shadow.compare_process"), stdin=PIPE, stdout=PIPE, env=_environment()
        )
        watching = asyncio.create_task(self._watch(process))
        try:
            self._process = process
            if self._rules is not None:
                self._write(self._rules)
            first, self._first = self._first, []
            for frame in first:
                self._write(frame)
            await self._read(process)
        finally:
            watching.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = REPLY.unpack(await process.stdout.readexactly(REPLY.size))
                reply: dict[str, Any] = json.loads(await process.stdout.readexactly(length))
                asked = self._asked.pop(reply["id"], None)
                if asked is not None:
                    asked[1](read_verdict(reply), reply["rules"])

    async def _watch(self, process: Process) -> None:
        """Ends a process that is stuck."""
        while True:
            await asyncio.sleep(_WATCH_S)
            oldest = next(iter(self._asked.values()), None)
            if oldest is not None and self._loop.time() - oldest[0] > self._compare_s:
                _log.warning("comparison_stuck", after_s=self._compare_s)
                process.kill()
                return

    def _lose(self, numbers: list[int]) -> None:
        for number in numbers:
            asked = self._asked.pop(number, None)
            if asked is not None:
                asked[1](None, "")


def _environment() -> dict[str, str]:
    """No secrets of ours: it reads what services wrote."""
    return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
