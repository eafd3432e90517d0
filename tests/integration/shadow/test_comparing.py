"""The process that compares may hang, die or talk nonsense: it costs the pair that it was at, and no other."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.compare.answers import Answer, Pairing, Result, Verdict
from gateway.core.compare.rules import ComparisonRules
from gateway.shadow.compare_process import command
from gateway.shadow.comparing import Comparing
from tests.support.waiting import until

FIELDS = [(b"content-type", b"application/json")]
REAL = command(1 << 20)
ODD_ONCE = """
import os, sys
from pathlib import Path
mark, what, *real = sys.argv[1:]
if not Path(mark).exists():
    Path(mark).touch()
    sys.stdin.buffer.read(1)
    os.write(1, bytes.fromhex(what))
    sys.stdin.buffer.read()
os.execv(real[0], real)
"""
"""Says something else in its first life, then is the real one."""


def reply(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


@asynccontextmanager
async def comparing(compare_s: float = 30.0, *, process: tuple[str, ...] = REAL) -> AsyncIterator[Comparing]:
    found = Comparing(compare_s, process)
    found.use({"item.get": ComparisonRules()}, b"secret")
    try:
        yield found
    finally:
        await found.aclose()


class Verdicts(list[Verdict | None]):
    """What came of pairs."""

    def __init__(self, of: Comparing) -> None:
        self._of = of

    def ask(self, left: object, right: object, *fields: tuple[bytes, bytes]) -> None:
        answers = [Answer(200, [*FIELDS, *fields], json.dumps(content).encode()) for content in (left, right)]
        self.ask_raw(*answers)

    def ask_raw(self, left: Answer, right: Answer) -> None:
        self._of.submit("item.get", left, right, Pairing(), lambda verdict, _: self.append(verdict))

    @property
    def lost(self) -> int:
        return self.count(None)

    @property
    def matches(self) -> int:
        return sum(1 for verdict in self if verdict is not None and verdict.result is Result.MATCH)


async def running(found: Comparing) -> int:
    verdicts = Verdicts(found)
    verdicts.ask([1], [1])
    await until(lambda: verdicts.matches == 1, "it compares")
    assert found.pid is not None
    return found.pid


async def test_a_process_that_is_stuck_costs_one_pair() -> None:
    async with comparing(0.5) as found:
        os.kill(await running(found), signal.SIGSTOP)
        verdicts = Verdicts(found)
        for number in range(20):
            verdicts.ask([number, 1], [number, 1])
        await until(lambda: len(verdicts) == 20, "all are judged or lost")
        assert (verdicts.matches, verdicts.lost) == (19, 1)


async def test_a_process_that_is_killed_costs_one_pair() -> None:
    async with comparing() as found:
        pid = await running(found)
        os.kill(pid, signal.SIGSTOP)
        verdicts = Verdicts(found)
        for number in range(20):
            verdicts.ask([number, 1], [number, 1])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(verdicts) == 20, "all are judged or lost")
        assert (verdicts.matches, verdicts.lost) == (19, 1)


async def test_a_backlog_is_no_hang() -> None:
    """All of it takes much longer than one pair may."""
    async with comparing(1.0) as found:
        await running(found)
        verdicts = Verdicts(found)
        large = [{"number": number, "text": "x"} for number in range(2000)]
        for number in range(300):
            verdicts.ask([number, large], [number, large])
        await until(lambda: len(verdicts) == 300, "all are judged", 60.0)
        assert (verdicts.matches, found.restarts) == (300, 0)


@pytest.mark.parametrize(
    "nonsense",
    [
        reply(b"garbage"),
        reply(b"[]"),
        reply(b"{}"),
        reply(b'{"id": 1}'),
        reply(json.dumps({"id": 99, "result": "match", "why": "", "differences": [], "unnamed": 0, "leaves": [],
                          "rules": ""}).encode()),
        reply(json.dumps({"id": 1, "result": "newer", "why": "", "differences": [], "unnamed": 0, "leaves": [],
                          "rules": ""}).encode()),
        b"\xff\xff\xff\xff",
        b"Traceback (most recent call last)",
    ],
    ids=["no JSON", "no object", "empty", "without a verdict", "of another pair", "of a newer version", "endless",
         "text"],
)  # fmt: skip
async def test_nonsense_is_the_death_of_it_and_of_nothing_else(tmp_path: Path, nonsense: bytes) -> None:
    process = (sys.executable, "-c", ODD_ONCE, str(tmp_path / "mark"), nonsense.hex(), *REAL)
    async with comparing(process=process) as found:
        verdicts = Verdicts(found)
        for number in range(20):
            verdicts.ask([number, 1], [number, 1])
        await until(lambda: len(verdicts) == 20, "all are judged or lost")
        assert (verdicts.matches, verdicts.lost, found.restarts) == (19, 1, 1)


async def test_a_process_that_cannot_be_started_loses_what_waits_for_it() -> None:
    async with comparing(process=("/nowhere/at/all",)) as found:
        verdicts = Verdicts(found)
        for number in range(20):
            verdicts.ask([number, 1], [number, 1])
        await until(lambda: verdicts.lost == 20, "none waits for ever")
        assert found.waiting == 0


async def test_a_process_that_never_says_anything_keeps_nothing_for_ever() -> None:
    async with comparing(process=(sys.executable, "-c", "")) as found:
        verdicts = Verdicts(found)
        for number in range(20):
            verdicts.ask([number, 1], [number, 1])
        await until(lambda: verdicts.lost == 20, "none waits for ever", 60.0)
        assert found.waiting == 0


async def test_a_listener_that_fails_ends_nothing() -> None:
    def broken(verdict: Verdict | None, rules: str) -> None:
        raise ZeroDivisionError

    async with comparing() as found:
        verdicts = Verdicts(found)
        found.submit("item.get", Answer(200, FIELDS, b"1"), Answer(200, FIELDS, b"1 "), Pairing(), broken)
        await until(lambda: found.restarts or found.waiting == 0, "it is told")
        verdicts.ask([1], [1])
        await until(lambda: verdicts.matches == 1, "it compares again")


async def test_what_is_asked_after_the_end_is_lost() -> None:
    async with comparing() as found:
        await running(found)
    verdicts = Verdicts(found)
    verdicts.ask([1], [1])
    await until(lambda: verdicts.lost == 1, "it is told")
