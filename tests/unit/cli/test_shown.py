from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.shown import plain


@given(st.text())
def test_nothing_that_came_from_elsewhere_acts_on_a_terminal(text: str) -> None:
    assert plain(text).isprintable()
    assert all(line.isprintable() for line in plain(text, keep_lines=True).split("\n"))


def test_what_is_unknown_is_a_dash_and_never_0() -> None:
    assert (plain(None), plain(0), plain(0.0)) == ("-", "0", "0.0")
