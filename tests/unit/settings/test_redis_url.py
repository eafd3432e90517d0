"""Redis URLs: their forms, and that no text form shows a password."""

from __future__ import annotations

import re

import pytest

from gateway.settings.redis_url import RedisUrl


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://a", "redis://a"),
        ("redis://a:6379/0", "redis://a:6379/0"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("rediss://me:p%40ss@a:6380/1", "rediss://***@a:6380/1"),
        ("redis://:hunter2@a", "redis://***@a"),
        ("redis://a?db=3", "redis://a"),
        ("rediss://a:1?ssl_ca_certs=/ca.pem", "rediss://a:1"),
        ("unix:///run/r.sock", "unix:///run/r.sock"),
        ("unix://:hunter2@/run/r.sock?db=1", "unix://***@/run/r.sock"),
        ("", "embedded"),
    ],
)
def test_every_form_is_kept_whole_and_shown_without_its_secret(url: str, shown: str) -> None:
    parsed = RedisUrl.parse(url)
    assert parsed.reveal() == url
    assert str(parsed) == shown
    assert repr(parsed) == f"RedisUrl({shown!r})"
    assert bool(parsed) is bool(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://:hunter2@a", "is no Redis URL"),
        ("a:6379", "is no Redis URL"),
        ("redis://:hunter2@a:x", "is no Redis URL (a password is written percent-encoded); write redis://host:6379/0"),
        ("redis://:hunter2@a:99999", "is no Redis URL"),
        ("redis://:hunter2@[a", "is no Redis URL"),
        ("redis://:hunter2#x@a", "a password is written percent-encoded"),
        ("redis://:hunter2/x@a", "a password is written percent-encoded"),
        ("redis://a\x00", "is no Redis URL"),
        ("redis://:hunter2@", "names no host"),
        ("redis:///0", "names no host"),
        ("unix://run/r.sock", "is no path of a socket; write unix:///path/redis.sock"),
        ("unix://a:1/r.sock", "is no path of a socket"),
        ("redis://a/zero", "names no database"),
        ("redis://a/1/2", "names no database"),
        ("redis://a/-1", "names no database"),
        ("redis://a/²", "names no database"),
        ("redis://a/1?db=2", "write its number once"),
        ("redis://a?password=hunter2", "holds credentials as parameters"),
        ("redis://a?username=hunter2", "holds credentials as parameters"),
        ("redis://a?hunter2", "is no Redis URL"),
        ("redis://a?timeout=hunter2", "holds parameters that are unknown"),
        ("redis://a?db=1&db=1", "stand twice"),
    ],
)
def test_anything_else_is_refused_and_repeats_nothing_of_it(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        RedisUrl.parse(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
