"""As many copies at once as a side answers without becoming slower; less as soon as it does."""

from __future__ import annotations

from gateway.core.pacing import Pace

READ = "item.get"


class Side:
    """A side that answers one copy after the other, seen through a clock of its own."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.now = 0.0

    def answers(self, seconds: float, times: int = 1, operation: str = READ) -> None:
        for _ in range(times):
            running = self.pace.limit
            self.now += seconds / running
            self.pace.answered(operation, seconds, running, self.now)

    def refuses(self, times: int) -> None:
        for _ in range(times):
            self.now += 0.3
            self.pace.refused(self.now)


def test_it_begins_with_few_and_reaches_the_most() -> None:
    pace = Pace(64)
    assert pace.limit == 8
    Side(pace).answers(0.01, 200)
    assert pace.limit == 64


def test_a_small_bound_is_kept_from_the_beginning() -> None:
    assert Pace(3).limit == 3


def test_a_side_that_becomes_slow_gets_less() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.01, 200)
    side.answers(2.0, 64)
    assert pace.limit <= 4


def test_a_side_that_becomes_three_times_as_slow_gets_less() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.05, 200)
    side.answers(0.15, 300)
    assert pace.limit <= 16


def test_a_side_that_was_always_slow_is_not_starved() -> None:
    pace = Pace(64)
    Side(pace).answers(2.0, 200)
    assert pace.limit == 64


def test_differences_below_the_floor_are_no_slowness() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.001, 200)
    side.answers(0.015, 200)
    assert pace.limit == 64


def test_each_operation_is_held_against_itself() -> None:
    pace = Pace(64)
    side = Side(pace)
    for _ in range(200):
        side.answers(0.01)
        side.answers(0.4, operation="item.log")
    assert pace.limit == 64


def test_a_side_that_turns_copies_away_gets_one_at_a_time() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.01, 200)
    side.refuses(8)
    assert pace.limit == 1


def test_one_bad_moment_halves_it_once() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.01, 200)
    for _ in range(50):
        pace.refused(side.now)
    assert pace.limit == 32


def test_it_recovers_one_by_one() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.01, 200)
    side.refuses(8)
    side.answers(0.01, 3)
    assert pace.limit <= 3
    side.answers(0.01, 3000)
    assert pace.limit == 64


def test_a_hang_is_seen_while_it_lasts() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.01, 200)
    pace.waited(READ, 0.2, side.now)
    assert pace.limit == 64
    for tenth in range(3, 40):
        pace.waited(READ, tenth / 10, side.now + tenth / 10)
    assert pace.limit == 1


def test_waiting_as_long_as_ever_is_no_hang() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(2.0, 200)
    pace.waited(READ, 3.9, side.now)
    assert pace.limit == 64


def test_what_has_become_slow_for_good_is_normal_in_the_end() -> None:
    pace = Pace(64)
    side = Side(pace)
    side.answers(0.05, 200)
    side.answers(0.15, 300)
    assert pace.limit < 64
    side.answers(0.15, 60_000)
    assert pace.limit == 64


def test_capacity_that_is_not_used_does_not_grow() -> None:
    pace = Pace(64)
    for number in range(100):
        pace.answered(READ, 0.01, 1, number)
    assert pace.limit == 8
