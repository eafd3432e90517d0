"""Answers are kept whole or not at all, and what is kept was asked for."""

from __future__ import annotations

import pytest

from gateway.core.compare.answers import Answer
from gateway.core.mirroring import Unmirrored
from gateway.core.model import Headers
from gateway.shadow.budget import Budget, Holding, Level
from gateway.shadow.recording import Fetch, NoRoomError, Recording

FIELDS: Headers = [(b"content-type", b"text/plain")]


class Kept:
    """A recording, and what came of it."""

    def __init__(self, budget: int = 100_000, limit: int = 10_000) -> None:
        self.budget = Budget(budget)
        self.holding = Holding(self.budget, Level.NEW)
        self.answers: list[Answer] = []
        self.reasons: list[Unmirrored] = []
        self.recording = Recording(
            limit, self.holding, lambda: Unmirrored.QUEUE_FULL, self.answers.append, self.reasons.append
        )


def test_an_answer_in_pieces_is_kept_whole_and_held_while_it_comes() -> None:
    kept = Kept()
    kept.recording.head_received(200, FIELDS)
    kept.recording.body_received(b"a" * 1000)
    assert kept.budget.held > 1000
    kept.recording.body_received(b"b" * 1000)
    assert kept.budget.held > 2000
    kept.recording.answer_completed()
    assert kept.answers == [Answer(200, FIELDS, b"a" * 1000 + b"b" * 1000)]
    # It belongs to whoever got the answer.
    assert kept.budget.held > 2000


def test_header_fields_are_held_too() -> None:
    kept = Kept()
    kept.recording.head_received(200, [(b"x-%d" % number, b"v" * 1000) for number in range(60)])
    assert kept.budget.held > 60_000


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("budget", "limit", "why"), [(2000, 10_000, Unmirrored.QUEUE_FULL), (100_000, 3999, Unmirrored.TOO_LARGE)]
)
def test_what_there_is_no_room_for_is_let_go(whole: bool, budget: int, limit: int, why: Unmirrored) -> None:
    kept = Kept(budget, limit)
    if whole:
        kept.recording.answer_received(200, FIELDS, b"a" * 4000)
    else:
        kept.recording.head_received(200, FIELDS)
        for _ in range(4):
            kept.recording.body_received(b"a" * 1000)
        kept.recording.answer_completed()
    assert kept.reasons == [why]
    assert kept.answers == []
    assert kept.budget.held == 0


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("status", [500, 503, 599, 429, 408])
def test_what_the_serving_side_did_not_accept_is_not_kept(status: int, whole: bool) -> None:
    kept = Kept()
    if whole:
        kept.recording.answer_received(status, FIELDS, b"a")
    else:
        kept.recording.head_received(status, FIELDS)
        kept.recording.body_received(b"a")
        kept.recording.answer_completed()
    assert kept.reasons == [Unmirrored.NOT_ACCEPTED]
    assert kept.answers == []
    assert kept.budget.held == 0


@pytest.mark.parametrize("status", [200, 204, 301, 404, 409, 422])
def test_other_answers_are_kept(status: int) -> None:
    kept = Kept()
    kept.recording.answer_received(status, FIELDS, b"a")
    assert len(kept.answers) == 1


def test_what_is_withdrawn_is_not_counted() -> None:
    kept = Kept()
    kept.recording.head_received(200, FIELDS)
    kept.recording.withdraw()
    kept.recording.lost(Unmirrored.CLIENT_GONE)
    kept.recording.answer_completed()
    assert (kept.answers, kept.reasons, kept.budget.held) == ([], [], 0)


def test_a_copys_answer_for_which_there_is_no_room_is_given_up() -> None:
    budget = Budget(1000)
    holding = Holding(budget, Level.COPY)
    answers: list[Answer] = []
    failures: list[BaseException] = []
    receiver = Fetch(10_000, holding, answers.append, failures.append)
    receiver.head_received(503, FIELDS, None)
    receiver.body_received(b"a" * 2000)
    receiver.body_received(b"a")
    receiver.answer_completed([])
    [error] = failures
    assert isinstance(error, NoRoomError)
    assert error.why is Unmirrored.COMPARISON_FULL
    assert answers == []
