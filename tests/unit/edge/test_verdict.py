"""Whether the side is to blame, and for what."""

from __future__ import annotations

import pytest

from gateway.core.model import ErrorCode, Headers
from gateway.core.outcome import Outcome
from gateway.edge.verdict import Verdict, is_absence, outcome_of_fault
from gateway.errors import Phase, UpstreamError
from tests.unit.edge.scene import arrival, deciding, snapshot

JSON: Headers = [(b"content-type", b"application/json")]
BUSY = b'{"code": "busy", "message": "m", "retryable": true}'


def fault(code: ErrorCode) -> UpstreamError:
    return UpstreamError(code, upstream="new", phase=Phase.FIRST_BYTE, detail="", sent=True)


def verdict(*codes: str, target: bytes | None = None) -> Verdict:
    of = deciding(snapshot(codes=codes), None if target is None else arrival(target))
    of.decide()
    return Verdict(of)


def heard(on: Verdict, status: int, *pieces: bytes) -> Outcome:
    on.listen(status, JSON)
    for piece in pieces:
        on.hear(piece)
    return on.outcome()


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, Outcome.OK), (404, Outcome.CLIENT_ERROR), (500, Outcome.FAILURE)]
)
@pytest.mark.parametrize("target", [None, b"/nowhere"], ids=["an operation's", "the default route's"])
def test_an_answer_is_judged_by_its_status(status: int, outcome: Outcome, target: bytes | None) -> None:
    on = verdict(target=target)
    assert heard(on, status) is outcome
    assert on.blames(status) == (outcome is Outcome.FAILURE)


def test_a_failure_that_is_declared_is_heard_in_what_the_side_says() -> None:
    on = verdict("busy")
    assert heard(on, 409, BUSY[:5], BUSY[5:]) is Outcome.FAILURE
    assert on.blamed == "busy"


@pytest.mark.parametrize("codes", [(), ("other",)])
def test_what_is_not_declared_blames_nobody(codes: tuple[str, ...]) -> None:
    assert heard(verdict(*codes), 409, BUSY) is Outcome.CLIENT_ERROR


def test_what_one_side_said_is_no_word_of_the_next() -> None:
    on = verdict("busy")
    assert heard(on, 503) is Outcome.FAILURE
    on.give_up(None, 503)
    assert on.blamed == "status 503"
    on.pass_on()
    assert heard(on, 200) is Outcome.OK
    assert on.blamed == "broken_off"


@pytest.mark.parametrize(
    ("error", "status", "blamed"),
    [
        (fault(ErrorCode.UPSTREAM_RESET), None, "upstream_reset"),
        (None, 502, "status 502"),
        (None, None, "hung"),
    ],
)
def test_a_side_that_is_given_up_is_blamed_for_what_was_seen(
    error: UpstreamError | None, status: int | None, blamed: str
) -> None:
    on = verdict()
    on.give_up(error, status)
    assert on.blamed == blamed


@pytest.mark.parametrize(
    ("code", "is_absent"), [(ErrorCode.UPSTREAM_REFUSED, True), (ErrorCode.UPSTREAM_INVALID, False)]
)
def test_absence_is_told_from_a_bad_answer(code: ErrorCode, is_absent: bool) -> None:
    assert is_absence(fault(code)) == is_absent


@pytest.mark.parametrize(
    ("error", "started", "outcome"),
    [
        (fault(ErrorCode.UPSTREAM_TIMEOUT), False, Outcome.FAILURE),
        (RuntimeError(), True, Outcome.FAILURE),
        (fault(ErrorCode.REQUEST_TIMEOUT), False, Outcome.REFUSED),
        (fault(ErrorCode.REQUEST_TIMEOUT), True, Outcome.CLIENT_GONE),
    ],
)
def test_a_fault_is_the_sides_unless_the_client_made_it(error: BaseException, started: bool, outcome: Outcome) -> None:
    assert outcome_of_fault(error, started=started) is outcome
