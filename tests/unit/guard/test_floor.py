"""Ten requests in a row that nobody answered take new out, and say so once a second at most."""

from __future__ import annotations

from gateway.core.detect.record import Cause
from gateway.core.model import SCOPE_ALL
from gateway.guard.floor import AbsenceFloor


def test_ten_absences_in_a_row_are_too_many_and_are_said_once_a_second() -> None:
    now, causes = [0.0], list[Cause]()
    floor = AbsenceFloor(lambda: now[0], causes.append)
    for _ in range(9):
        floor.absent()
    floor.answered()
    for _ in range(9):
        floor.absent()
    assert causes == []
    floor.absent()
    assert [(cause.scope, cause.signal) for cause in causes] == [(SCOPE_ALL, "absence")]
    for _ in range(100):
        floor.absent()
    assert len(causes) == 1
    now[0] = 1.0
    for _ in range(10):
        floor.absent()
    assert len(causes) == 2


def test_health_checks_count_once_a_request_was_lost() -> None:
    now, causes = [0.0], list[Cause]()
    floor = AbsenceFloor(lambda: now[0], causes.append)
    for _ in range(100):
        now[0] += 1
        floor.unwell()
    assert causes == []
    floor.absent()
    for _ in range(8):
        now[0] += 1
        floor.unwell()
    assert causes == []
    now[0] += 1
    floor.unwell()
    assert [cause.signal for cause in causes] == ["absence"]


def test_an_answer_is_worth_more_than_any_check() -> None:
    now, causes = [0.0], list[Cause]()
    floor = AbsenceFloor(lambda: now[0], causes.append)
    floor.absent()
    floor.answered()
    for _ in range(100):
        now[0] += 1
        floor.unwell()
    assert causes == []
