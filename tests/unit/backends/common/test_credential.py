"""Where the service's own credential goes, and where it never goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.common.credential import Credential

TOKEN = "ghp_canary"


@pytest.mark.parametrize(
    ("hosts", "url", "is_sent"),
    [
        ("", "https://github.com/a/b.git", True),
        ("", "https://GitHub.com/a/b.git", True),
        ("", "https://github.com:443/a/b.git", True),
        ("", "https://github.com:8443/a/b.git", False),
        ("", "http://github.com/a/b.git", False),
        ("", "https://github.com.evil.example/a/b.git", False),
        ("", "https://evil.example/github.com/b.git", False),
        ("", "https://api.github.com/a/b.git", False),
        ("", "/srv/github.com/b.git", False),
        ("", "file:///github.com/b.git", False),
        ("git.example:8443, github.com", "https://git.example:8443/b.git", True),
        ("git.example:8443", "https://git.example/b.git", False),
        ("git.example:8443", "https://github.com/b.git", False),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/b.git", True),
        ("127.0.0.1:9000", "http://127.0.0.1:9001/b.git", False),
        ("git.example:80", "http://git.example/b.git", False),
    ],
)
def test_it_goes_to_the_hosts_that_are_named_and_to_no_other(hosts: str, url: str, is_sent: bool) -> None:
    env = {"CROSSFADE_GIT_TOKEN": TOKEN, "CROSSFADE_GIT_TOKEN_HOSTS": hosts}
    credential = Credential.take(env)
    assert credential.for_url(url) == (TOKEN if is_sent else None)
    assert "CROSSFADE_GIT_TOKEN" not in env
    assert TOKEN not in repr(credential)


def test_it_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    env = {"CROSSFADE_GIT_TOKEN_FILE": str(file)}
    assert Credential.take(env).for_url("https://github.com/b.git") == TOKEN
    assert env == {}


def test_without_one_nothing_is_sent() -> None:
    assert Credential.take({}).for_url("https://github.com/b.git") is None


def test_what_is_no_token_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="CROSSFADE_GIT_TOKEN holds") as caught:
        Credential.take({"CROSSFADE_GIT_TOKEN": f"{TOKEN}\r\nX: y"})
    assert TOKEN not in str(caught.value)
