from __future__ import annotations

import pytest

from gateway.cli.machine import _split_password, _without_credentials


@pytest.mark.parametrize(
    ("url", "kept", "password", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0", None, "redis://h:6379/0"),
        ("redis://:p%40ss@h:6379/0", "redis://h:6379/0", "p@ss", "redis://h:6379/0"),
        ("rediss://user:pw@h:6379?db=1", "rediss://user@h:6379?db=1", "pw", "rediss://h:6379"),
        ("redis://user@h", "redis://user@h", None, "redis://h"),
        ("unix:///run/r.sock?db=2", "unix:///run/r.sock?db=2", None, "unix:///run/r.sock"),
        ("unix://:pw@/run/r.sock", "unix:///run/r.sock", "pw", "unix:///run/r.sock"),
    ],
)
def test_a_password_leaves_the_url_and_credentials_are_never_shown(
    url: str, kept: str, password: str | None, shown: str
) -> None:
    assert _split_password(url) == (kept, password)
    assert _without_credentials(kept) == shown
