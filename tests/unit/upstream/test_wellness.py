"""When checks make an instance unwell, and well again."""

from __future__ import annotations

import pytest

from gateway.upstream.health import FALL, RISE, Wellness


def play(checks: str) -> tuple[frozenset[int], int]:
    """State and number of changes after checks of instance 1 of three: `+` good, `-` bad."""
    wellness = Wellness(3)
    changes = sum(wellness.note(1, is_good=check == "+") for check in checks)
    return wellness.unwell, changes


@pytest.mark.parametrize(
    ("checks", "unwell", "changes"),
    [
        ("", False, 0),
        ("+++", False, 0),
        ("-" * (FALL - 1), False, 0),
        ("-" * FALL, True, 1),
        ("-" * 10 * FALL, True, 1),
        ("--+--+--", False, 0),
        ("---" + "+" * (RISE - 1), True, 1),
        ("---" + "+" * RISE, False, 2),
        ("---+-+-", True, 1),
        ("---++---", True, 3),
    ],
)
def test_it_takes_several_checks_in_a_row(checks: str, unwell: bool, changes: int) -> None:
    assert play(checks) == (frozenset({1}) if unwell else frozenset(), changes)
