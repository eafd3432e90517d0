from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.connection import CONTROL_URL, DATA_DIR, TOKEN_FILE, Control, Place
from gateway.cli.shown import CommandError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (CONTROL_URL, TOKEN_FILE, DATA_DIR):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def token(tmp_path: Path, text: str = "cf_abc\n", mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_where_nothing_runs_the_ways_to_kill_are_told() -> None:
    with pytest.raises(CommandError, match="crossfade up") as error:
        Control(Place())
    assert "KILL" in error.value.message
    assert "redis-cli SET cf:MIGRATION:kill:all" in error.value.message


def test_control_and_token_come_from_options_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONTROL_URL, "http://127.0.0.1:1")
    monkeypatch.setenv(TOKEN_FILE, "/nowhere")
    control = Control(Place("http://127.0.0.1:2/", token(tmp_path)))
    assert control.url == "http://127.0.0.1:2"
    monkeypatch.setenv(TOKEN_FILE, str(token(tmp_path)))
    assert Control(Place()).url == "http://127.0.0.1:1"


def test_a_control_that_is_named_gets_no_token_that_was_not() -> None:
    with pytest.raises(CommandError, match="no token"):
        Control(Place("http://127.0.0.1:2"))


@pytest.mark.parametrize("text", ["", "\n", "cf_\x1b[2J", "ä"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CommandError, match="no token"):
        Control(Place("http://127.0.0.1:2", token(tmp_path, text)))


def test_a_token_open_to_others_and_one_in_the_clear_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Control(Place("http://control.example:8081", token(tmp_path, mode=0o644)))
    err = capsys.readouterr().err
    assert "chmod 600" in err
    assert "in the clear to control.example" in err
    assert "cf_abc" not in err


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:80", "http://", "http://[", "x"])
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(CommandError, match="no URL"):
        Control(Place(url, token(tmp_path)))


def test_a_control_that_does_not_answer_is_a_clear_error(tmp_path: Path) -> None:
    import socket

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        with pytest.raises(CommandError, match="does not answer") as error:
            Control(Place(f"http://127.0.0.1:{port}", token(tmp_path))).get("/v1/status")
    assert error.value.code == "unreachable"
