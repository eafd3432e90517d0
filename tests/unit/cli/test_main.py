from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gateway.cli.later import LATER
from gateway.cli.main import main


def test_help_loads_nothing_that_only_commands_need() -> None:
    script = (
        "import sys; from gateway.cli.main import main; main(['--help']); "
        "heavy = {'httpx', 'pydantic', 'uvicorn', 'starlette', 'redis', 'gateway.app'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rearm" in done.stdout


@pytest.mark.parametrize("name", LATER)
def test_what_is_not_there_yet_says_so_whatever_it_is_asked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--json", "--fault", "errors", "x"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["code"] == "not_yet_available"
    assert name in err


def test_a_wrong_command_line_ends_with_2_and_a_document_for_who_wants_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["share", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["code"] == "usage"
    assert "OPERATION|GROUP" in err
    assert main(["nothing"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "percent", ["abc", "101", "33.33333", "nan", "inf", "", "10%", "1e400", "0.00001", "1_0", "١٠"]
)
def test_a_bad_percent_is_a_wrong_command_line(percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", "workspace", "--reason", "r", "--", percent]) == 2
    assert "PERCENT" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"version", "python"}
