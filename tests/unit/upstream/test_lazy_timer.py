from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import cast

from gateway.upstream.lazy_timer import LazyTimer


class Handle:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class HandWoundLoop:
    """The clock and the timers of a loop, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[[], None]) -> Handle:
        handle = Handle(at, call)
        self.handles.append(handle)
        return handle

    @property
    def scheduled(self) -> list[float]:
        return [handle.at for handle in self.handles if not handle.is_cancelled]

    def go_to(self, now: float) -> None:
        self.now = now
        for handle in [handle for handle in self.handles if handle.at <= now and not handle.is_cancelled]:
            self.handles.remove(handle)
            handle.call()


def make() -> tuple[HandWoundLoop, LazyTimer, list[float]]:
    loop = HandWoundLoop()
    fired: list[float] = []
    timer = LazyTimer(cast(asyncio.AbstractEventLoop, loop), lambda: fired.append(loop.now))
    return loop, timer, fired


def test_a_deadline_that_passes_calls_back_once() -> None:
    loop, timer, fired = make()
    timer.set(5.0)
    loop.go_to(4.0)
    assert fired == []
    loop.go_to(5.0)
    loop.go_to(50.0)
    assert fired == [5.0]
    assert loop.scheduled == []


def test_moving_a_deadline_away_schedules_nothing() -> None:
    loop, timer, fired = make()
    timer.set(5.0)
    for at in (6.0, 7.0, 60.0):
        timer.set(at)
    assert loop.scheduled == [5.0]
    loop.go_to(5.0)
    assert loop.scheduled == [60.0]
    loop.go_to(60.0)
    assert fired == [60.0]


def test_moving_a_deadline_nearer_takes_effect() -> None:
    loop, timer, fired = make()
    timer.set(60.0)
    timer.set(5.0)
    assert loop.scheduled == [5.0]
    loop.go_to(5.0)
    assert fired == [5.0]


def test_no_deadline_never_calls_back() -> None:
    loop, timer, fired = make()
    timer.set(inf)
    assert loop.scheduled == []
    timer.set(5.0)
    timer.set(inf)
    loop.go_to(5.0)
    assert fired == []
    assert loop.scheduled == []


def test_a_cancelled_timer_holds_nothing_and_can_be_set_again() -> None:
    loop, timer, fired = make()
    timer.set(5.0)
    timer.cancel()
    assert loop.scheduled == []
    timer.set(7.0)
    loop.go_to(7.0)
    assert fired == [7.0]
