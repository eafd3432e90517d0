from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.ejection import Ejection
from gateway.upstream.limits import EjectionLimits

LIMITS = EjectionLimits(after_failures=3, base_s=1.0, max_s=5.0)


def fail(ejection: Ejection, index: int, now: float, times: int) -> list[bool]:
    return [ejection.note_failure(index, now) for _ in range(times)]


def test_failures_in_a_row_take_an_instance_out_for_a_while() -> None:
    ejection = Ejection(2, LIMITS)
    assert fail(ejection, 0, 10.0, 3) == [False, False, True]
    assert ejection.is_out(0, 10.99)
    assert list(ejection.present(10.5)) == [1]
    assert ejection.count_out(10.5) == 1
    assert not ejection.is_out(0, 11.0)
    assert list(ejection.present(11.0)) == [0, 1]
    assert ejection.ejections == 1


def test_an_answer_in_between_forgets_the_failures() -> None:
    ejection = Ejection(2, LIMITS)
    fail(ejection, 0, 0.0, 2)
    ejection.note_answer(0)
    assert fail(ejection, 0, 0.0, 2) == [False, False]
    assert not ejection.is_out(0, 0.0)


def test_absences_grow_up_to_a_bound_when_the_trial_fails() -> None:
    ejection = Ejection(2, LIMITS)
    fail(ejection, 0, 0.0, 3)
    now, absences = 1.0, []
    for _ in range(4):
        assert ejection.note_failure(0, now)
        end = now
        while ejection.is_out(0, end):
            end += 0.5
        absences.append(end - now)
        now = end
    assert absences == [2.0, 4.0, 5.0, 5.0]


def test_an_answer_on_trial_starts_from_the_beginning() -> None:
    ejection = Ejection(2, LIMITS)
    fail(ejection, 0, 0.0, 3)
    ejection.note_answer(0)
    assert fail(ejection, 0, 2.0, 3) == [False, False, True]
    assert not ejection.is_out(0, 3.0)


def test_the_last_instance_stays_in() -> None:
    alone = Ejection(1, LIMITS)
    assert not any(fail(alone, 0, 0.0, 50))
    assert list(alone.present(0.0)) == [0]
    pair = Ejection(2, LIMITS)
    fail(pair, 0, 0.0, 3)
    assert not any(fail(pair, 1, 0.5, 50))
    assert list(pair.present(0.5)) == [1]


def test_failures_while_out_do_not_prolong_the_absence() -> None:
    # Exchanges that were running when it was taken out end one after the other.
    ejection = Ejection(2, LIMITS)
    fail(ejection, 0, 0.0, 3)
    assert not any(fail(ejection, 0, 0.9, 20))
    assert not ejection.is_out(0, 1.0)


def test_the_last_one_in_may_go_once_another_came_back() -> None:
    ejection = Ejection(2, LIMITS)
    fail(ejection, 0, 0.0, 3)
    fail(ejection, 1, 0.5, 5)
    assert ejection.note_failure(1, 1.5)
    assert list(ejection.present(1.5)) == [0]


events = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0.0, 3.0)), max_size=80)


@given(events)
def test_somebody_is_always_in(events: list[tuple[int, bool, float]]) -> None:
    ejection, now = Ejection(3, LIMITS), 0.0
    for index, is_failure, later in events:
        now += later
        if is_failure:
            ejection.note_failure(index, now)
        else:
            ejection.note_answer(index)
        present = list(ejection.present(now))
        assert present
        assert present == [one for one in range(3) if not ejection.is_out(one, now)]
