"""Every line is one JSON object, whoever logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.telemetry.logs import configure_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_our_lines_and_those_of_libraries_have_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json", part="gateway-0")
    structlog.get_logger("x").info("kill", scope="all", reason='two\nlines "quoted"')
    logging.getLogger("library").warning("careful %s", "now")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["scope"], ours["part"], ours["level"]) == ("kill", "all", "gateway-0", "info")
    assert ours["reason"] == 'two\nlines "quoted"'
    assert ours["at"].endswith("Z")
    assert (theirs["event"], theirs["level"]) == ("careful now", "warning")


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("error", "json")
    structlog.get_logger("x").warning("quiet")
    logging.getLogger("library").info("quiet too")
    assert capsys.readouterr().err == ""


def test_a_failure_is_one_line_with_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    try:
        raise ValueError("broken")  # noqa: TRY301 - to have one
    except ValueError:
        structlog.get_logger("x").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]
