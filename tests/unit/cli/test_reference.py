from __future__ import annotations

from pathlib import Path

from gateway.cli.later import LATER
from gateway.cli.main import COMMANDS
from gateway.cli.reference import render

CONTRACT = frozenset(
    name
    for line in (
        "up gateway control relay approach1 approach2 status explain share stage mirror promote hold rollback kill",
        "rearm comparisons noise writes reconcile backfill consistency drill simulate check-config",
        "check-credentials apply restart audit token demo fake-e2b",
    )
    for name in line.split()
)


def test_the_reference_is_the_one_in_the_docs() -> None:
    path = Path(__file__).parents[3] / "docs" / "cli.md"
    assert path.read_text(encoding="utf-8") == render(), (
        "the command line has changed: python -m gateway.cli.reference > docs/cli.md"
    )


def test_every_command_of_the_contract_is_there() -> None:
    assert {*COMMANDS, *LATER} >= CONTRACT
