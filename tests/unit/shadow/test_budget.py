"""One budget for everything that is held, and room left for what is under way."""

from __future__ import annotations

from gateway.shadow.budget import Budget, Holding, Level


def test_new_reads_leave_room_for_answers_and_those_for_second_looks() -> None:
    budget = Budget(1000)
    new, copy, look = (Holding(budget, level) for level in (Level.NEW, Level.COPY, Level.SECOND_LOOK))
    assert new.grow(700)
    assert not new.grow(1)
    assert copy.grow(200)
    assert not copy.grow(1)
    assert look.grow(100)
    assert not look.grow(1)
    assert budget.held == 1000


def test_what_was_refused_is_not_held() -> None:
    budget = Budget(1000)
    holding = Holding(budget, Level.SECOND_LOOK)
    assert holding.grow(900)
    assert not holding.grow(200)
    assert (holding.size, budget.held) == (900, 900)


def test_everything_is_given_back_once() -> None:
    budget = Budget(1000)
    holding = Holding(budget, Level.NEW)
    holding.grow(500)
    holding.become(800)
    assert budget.held == 800
    holding.release()
    holding.release()
    assert (holding.size, budget.held) == (0, 0)
