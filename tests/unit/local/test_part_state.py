from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.local.part_state import LAST_DELAY_S, TABLE, PartEffect, PartEvent, PartState, delay_before, step

HAS_PROCESS = frozenset({PartState.STARTING, PartState.READY, PartState.STOPPING})


@given(st.lists(st.sampled_from(PartEvent)))
def test_no_history_starts_a_second_process_beside_a_first(history: list[PartEvent]) -> None:
    state = PartState.STOPPED
    for event in history:
        before = state
        state, effect = step(state, event)
        if effect is PartEffect.SPAWN:
            assert before not in HAS_PROCESS


@given(st.lists(st.sampled_from(PartEvent)))
def test_a_part_told_to_stop_never_starts_again_by_itself(history: list[PartEvent]) -> None:
    state, _ = step(PartState.READY, PartEvent.STOP)
    for event in history:
        if event is not PartEvent.START or state is not PartState.STOPPED:
            state, effect = step(state, event)
            assert effect is not PartEffect.SPAWN


@pytest.mark.parametrize("state", PartState)
def test_every_state_that_has_a_process_can_be_stopped(state: PartState) -> None:
    after, effect = step(state, PartEvent.STOP)
    if state is PartState.STOPPING:
        assert after is PartState.STOPPING
    else:
        assert after is (PartState.STOPPING if state in HAS_PROCESS else PartState.STOPPED)
        assert (effect is PartEffect.ASK_TO_END) == (state in HAS_PROCESS)


@pytest.mark.parametrize("state", [PartState.STARTING, PartState.READY])
def test_a_part_that_ends_by_itself_is_started_again_after_a_delay(state: PartState) -> None:
    state, effect = step(state, PartEvent.ENDED)
    assert effect is PartEffect.DELAY
    assert step(state, PartEvent.DELAY_OVER) == (PartState.STARTING, PartEffect.SPAWN)


@pytest.mark.parametrize("state", [PartState.STARTING, PartState.STOPPING])
def test_who_is_late_is_killed_and_waited_for(state: PartState) -> None:
    assert step(state, PartEvent.LATE) == (state, PartEffect.KILL)


def test_every_state_is_reached_by_the_table() -> None:
    assert {after for after, _ in TABLE.values()} == set(PartState)


def test_a_late_event_changes_nothing() -> None:
    assert step(PartState.STOPPED, PartEvent.SAID_READY) == (PartState.STOPPED, PartEffect.NOTHING)


@given(st.integers(1, 10_000))
def test_delays_grow_and_are_bounded(attempt: int) -> None:
    assert 0 < delay_before(attempt) <= delay_before(attempt + 1) <= LAST_DELAY_S
