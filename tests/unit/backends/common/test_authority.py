from __future__ import annotations

from pathlib import Path

import pytest

from backends.common.authority import InternalToken


def test_the_token_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    for name, value, secret in (("_FILE", str(file), "from-file"), ("", "direct", "direct")):
        env = {f"CROSSFADE_INTERNAL_TOKEN{name}": value, "OTHER": "x"}
        assert InternalToken.take(env).is_held_by(secret)
        assert env == {"OTHER": "x"}


def test_only_the_holder_is_let_in() -> None:
    token = InternalToken.take({"CROSSFADE_INTERNAL_TOKEN": "right"})
    assert token.is_held_by("right")
    for value in ("wrong", "right ", "", "ü", "\u20ac", None):
        assert not token.is_held_by(value)


def test_without_a_token_nobody_holds_it() -> None:
    token = InternalToken.take({})
    assert not token.is_held_by("")
    assert not token.is_held_by(None)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        InternalToken.take({"CROSSFADE_INTERNAL_TOKEN_FILE": str(tmp_path / "absent")})


def test_the_secret_is_not_shown() -> None:
    assert "right" not in repr(InternalToken.take({"CROSSFADE_INTERNAL_TOKEN": "right"}))
