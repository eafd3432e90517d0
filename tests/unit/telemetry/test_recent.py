"""What went wrong lately is kept for a while, within bounds, and only of new."""

from __future__ import annotations

from gateway.core.model import Side
from gateway.core.outcome import Outcome
from gateway.telemetry.counters import RequestCounters


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answered(counters: RequestCounters, side: Side, outcome: Outcome, seconds: float, number: int = 0) -> None:
    blamed = "status 500" if outcome is Outcome.FAILURE else None
    counters.answered("a", side, outcome, seconds, blamed=blamed, request_id=b"r%d" % number)


def test_failures_and_late_answers_of_new_are_kept() -> None:
    clock = Clock()
    counters = RequestCounters(clock)
    counters.limits["a"] = 0.1
    clock.now = 7.0
    answered(counters, Side.NEW, Outcome.FAILURE, 0.01, 1)
    answered(counters, Side.NEW, Outcome.OK, 0.2, 2)
    answered(counters, Side.NEW, Outcome.OK, 0.05, 3)
    answered(counters, Side.OLD, Outcome.FAILURE, 0.2, 4)
    (failure,), (late,) = counters.recent.failures("a"), counters.recent.late("a")
    assert (failure.at, failure.kind, failure.request_id) == (7.0, "status 500", "r1")
    assert (late.seconds, late.request_id) == (0.2, "r2")
    assert counters.recent.failures("b") == []
    assert counters.recent.failures(None) == [failure]


def test_what_was_counted_late_already_is_not_late_again() -> None:
    counters = RequestCounters(Clock())
    counters.limits["a"] = 0.1
    counters.late("a")
    counters.answered("a", Side.NEW, Outcome.OK, 0.5, is_late=True, request_id=b"r")
    assert counters.recent.late("a") == []
    assert counters.signals()["a"][:4] == [1, 0, 1, 1]


def test_however_much_fails_little_is_kept() -> None:
    counters = RequestCounters(Clock())
    for number in range(1000):
        answered(counters, Side.NEW, Outcome.FAILURE, 0.01, number)
    kept = counters.recent.failures("a")
    assert (len(kept), kept[-1].request_id) == (200, "r999")


def test_signals_tell_what_old_did_as_well() -> None:
    counters = RequestCounters(Clock())
    answered(counters, Side.OLD, Outcome.FAILURE, 0.01)
    answered(counters, Side.OLD, Outcome.OK, 0.01)
    assert counters.signals()["a"] == [0, 0, 0, 0, 0, 0, 2, 1, 0, 0]
