from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.writers_log import Line, faults, read_log


def log(*texts: str) -> list[Line]:
    """Of texts such as `a 1 begin`."""
    return [Line.parse(f"{text} work" if text.endswith("begin") else text) for text in texts]


def test_writers_that_take_turns_leave_no_fault() -> None:
    assert faults(log("a 1 begin", "a 1 end", "b 1 begin", "b 1 end", "c 2 begin", "c 2 end")) == []


def test_one_that_was_killed_has_no_end_and_is_no_fault() -> None:
    assert faults(log("a 1 begin", "b 2 begin", "b 2 end", "c 3 begin")) == []


def test_one_that_begins_inside_of_another_is_found() -> None:
    assert faults(log("a 1 begin", "b 1 begin", "a 1 end", "b 1 end"))
    assert faults(log("a 1 begin", "b 1 begin", "b 1 end", "a 1 end"))


def test_an_end_without_a_beginning_is_found() -> None:
    assert faults(log("a 1 end"))
    assert faults(log("a 1 begin", "a 1 end", "a 1 end"))


def test_a_writer_that_was_overtaken_is_found() -> None:
    assert faults(log("a 2 begin", "a 2 end", "b 1 begin", "b 1 end"))


def test_a_writer_that_begins_twice_is_found() -> None:
    assert faults(log("a 1 begin", "a 1 end", "a 1 begin", "a 1 end"))


def test_a_log_is_read_without_the_line_that_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a 1 begin write_file\na 1 end\nb 2 be")
    assert read_log(tmp_path / "log") == [Line("a", 1, "write_file"), Line("a", 1, None)]


@pytest.mark.parametrize("text", ["", "a 1", "a 1 began it", "a one end", "a 1 begin two words"])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no line|invalid literal|not enough values"):
        Line.parse(text)
