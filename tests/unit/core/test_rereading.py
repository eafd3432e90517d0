"""What reading again says about a difference, and about those that are not read again."""

from __future__ import annotations

import random

import pytest

from gateway.core.compare.tree import Kind
from gateway.core.rereading import Overflow, unshaken

A = ("$.a", Kind.VALUE)
B = ("$.b", Kind.VALUE)


def test_a_steady_serving_side_leaves_no_doubt() -> None:
    assert unshaken(frozenset({A, B}), frozenset()) == {A, B}


def test_where_the_serving_side_differs_from_itself_nothing_is_said() -> None:
    assert unshaken(frozenset({A, B}), frozenset({A})) == {B}
    assert unshaken(frozenset({A}), frozenset({A, B})) == frozenset()


def test_a_part_that_moved_shakes_what_is_in_it_and_nothing_beside_it() -> None:
    inside = {("$.items[*].v", Kind.VALUE), ("$.items", Kind.LENGTH)}
    beside = {("$.items_total", Kind.VALUE)}
    assert unshaken(frozenset(inside | beside), frozenset({("$.items", Kind.LENGTH)})) == beside


def test_a_value_that_changes_shakes_its_own_place_alone() -> None:
    assert unshaken(frozenset({("$.a.b", Kind.VALUE)}), frozenset({A})) == {("$.a.b", Kind.VALUE)}


def test_a_status_that_changes_shakes_everything() -> None:
    assert unshaken(frozenset({A}), frozenset({("status", Kind.STATUS)})) == frozenset()


def test_nothing_stands_for_others_where_nothing_is_read_again() -> None:
    assert not Overflow().take("item.get")


def test_every_suspicion_is_settled_once() -> None:
    overflow = Overflow()
    for _ in range(3):
        overflow.sample("item.get")
    for _ in range(10):
        assert overflow.take("item.get")
    overflow.sample("item.log")
    assert overflow.settle("item.log") == 1
    assert sum(overflow.settle("item.get") for _ in range(3)) == 13
    assert not overflow.take("item.get")


@pytest.mark.parametrize("real", [1.0, 0.5, 0.1])
def test_the_share_of_real_differences_is_not_biased(real: float) -> None:
    """Confirming takes 15 s and refuting 5 s; 65 suspicions a second come, for 64 places."""
    rng = random.Random(7)
    overflow = Overflow()
    running: list[tuple[float, bool]] = []
    settled = {True: 0, False: 0}
    for number in range(65 * 300):
        now = number / 65
        for end, verdict in [one for one in running if one[0] <= now]:
            running.remove((end, verdict))
            settled[verdict] += overflow.settle("item.get")
        is_real = rng.random() < real
        if len(running) >= 64 and overflow.take("item.get"):
            continue
        overflow.sample("item.get")
        running.append((now + (15 if is_real else 5), is_real))
    share = settled[True] / (settled[True] + settled[False])
    assert share == pytest.approx(real, abs=0.05)
