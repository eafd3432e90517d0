"""What is booked as a side's time."""

from __future__ import annotations

import pytest

from gateway.core.model import Deadlines, Headers
from gateway.edge.side_time import Waiting

EVENTS: Headers = [(b"content-type", b"text/Event-Stream; charset=utf-8")]


def test_it_begins_when_the_request_is_given_to_the_side() -> None:
    request = Waiting(10.0)
    request.client_waited(3.0)
    request.given(15.0)
    assert (request.began, request.taken_s(17.0)) == (15.0, 2.0)


def test_before_that_it_is_counted_from_the_head() -> None:
    request = Waiting(10.0)
    request.client_waited(3.0)
    assert request.taken_s(17.0) == 4.0


def test_what_its_client_takes_is_not_the_sides_and_it_is_never_negative() -> None:
    request = Waiting(0.0)
    request.given(0.0)
    request.client_waited(2.0)
    assert request.taken_s(5.0) == 3.0
    request.client_waited(9.0)
    assert request.taken_s(5.0) == 0.0


@pytest.mark.parametrize("headers", [EVENTS, [(b"content-type", b"application/json")]])
def test_a_stream_of_events_is_as_fast_as_its_first(headers: Headers) -> None:
    request = Waiting(0.0)
    request.given(0.0)
    request.begin_answer(headers)
    assert request.has_begun
    assert request.awaits_event == (headers is EVENTS)
    if request.awaits_event:
        request.first_event_came(1.0)
    assert not request.awaits_event
    assert request.taken_s(100.0) == (1.0 if headers is EVENTS else 100.0)


def test_what_new_took_is_no_time_of_olds_but_the_requests() -> None:
    request = Waiting(0.0)
    request.given(0.0)
    request.is_late = True
    request.pass_on(4.0)
    assert (request.taken_s(5.0), request.is_late) == (1.0, False)
    assert request.left_of(Deadlines(total_s=10.0)).total_s == 6.0
    assert request.left_of(Deadlines(total_s=3.0)).total_s == 0.001
    unbounded = Deadlines()
    assert request.left_of(unbounded) is unbounded


def test_deadlines_are_whole_for_the_first_side() -> None:
    deadlines = Deadlines(total_s=10.0)
    assert Waiting(0.0).left_of(deadlines) is deadlines


@pytest.mark.parametrize(("total_s", "is_used_up"), [(None, False), (5.0, True), (4.9, True), (5.1, False)])
def test_time_is_used_up_at_the_end_of_all_that_the_request_has(total_s: float | None, is_used_up: bool) -> None:
    request = Waiting(0.0)
    request.given(1.0)
    assert request.is_used_up(6.0, Deadlines(total_s=total_s)) == is_used_up
