from __future__ import annotations

from gateway.control.auth import ADDRESSES, ATTEMPTS, WINDOW_S, Attempts


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_may_fail_so_often_and_then_waits_for_the_end_of_its_window() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert [attempts.fail("a") for _ in range(ATTEMPTS)] == [None] * ATTEMPTS
    clock.now = 10.0
    assert attempts.fail("a") == WINDOW_S - 10
    assert attempts.fail("b") is None
    clock.now = WINDOW_S
    assert attempts.fail("a") is None


def test_the_memory_of_addresses_is_bounded() -> None:
    attempts = Attempts(Clock())
    for _ in range(ATTEMPTS):
        attempts.fail("first")
    for number in range(ADDRESSES - 1):
        attempts.fail(f"address {number}")
    assert attempts.fail("first") is not None
    for number in range(ADDRESSES):
        attempts.fail(f"other {number}")
    assert attempts.fail("first") is None
