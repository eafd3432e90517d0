"""Targets of notifications in the migration file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.notice import NoticeKind, NoticeTarget, TargetKind
from gateway.settings import LoadedMigration, SettingsError, load_migration


def load(tmp_path: Path, *targets: Any) -> LoadedMigration:
    content = {
        "migration": "m",
        "sides": {"old": {"instances": ["http://127.0.0.1:9"]}, "new": {"instances": ["http://127.0.0.1:10"]}},
        "operations": {"a": {"class": "read", "match": {"rest": "GET /a"}}},
        "notifications": list(targets),
    }
    file = tmp_path / "migration.yaml"
    file.write_text(json.dumps(content))
    return load_migration(file)


@pytest.fixture
def url_file(tmp_path: Path) -> Path:
    file = tmp_path / "url"
    file.write_text("https://hooks.example/canary\n")
    file.chmod(0o600)
    return file


def test_each_kind_of_target_is_read(tmp_path: Path, url_file: Path) -> None:
    loaded = load(
        tmp_path,
        {"webhook": {"url_file": str(url_file)}, "events": ["trip", "disarmed"]},
        {"slack": {"url_file": str(url_file)}},
        {"command": ["/bin/sh", "-c", "true"]},
    )
    assert loaded.definition.notifications == (
        NoticeTarget(TargetKind.WEBHOOK, str(url_file), kinds=frozenset({NoticeKind.TRIP, NoticeKind.DISARMED})),
        NoticeTarget(TargetKind.SLACK, str(url_file)),
        NoticeTarget(TargetKind.COMMAND, argv=("/bin/sh", "-c", "true")),
    )
    assert not any("notifications" in warning for warning in loaded.warnings)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({}, "exactly one of"),
        ({"command": ["a"], "slack": {"url_file": "b"}}, "exactly one of"),
        ({"command": []}, "write the program"),
        ({"command": ["a", ""]}, "write the program"),
        ({"command": "page now"}, "list"),
        ({"slack": {"url": "https://hooks.example/canary"}}, "url"),
        ({"command": ["a"], "events": ["panic"]}, "events"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, target: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load(tmp_path, target)
    assert "canary" not in str(caught.value)


def test_the_same_target_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="stands in this list already"):
        load(tmp_path, {"command": ["/bin/true"]}, {"command": ["/bin/true"]})


def test_what_may_be_mended_later_is_a_warning_that_shows_no_secret(tmp_path: Path, url_file: Path) -> None:
    url_file.write_text("canary without a scheme")
    url_file.chmod(0o644)
    loaded = load(tmp_path, {"slack": {"url_file": str(url_file)}}, {"slack": {"url_file": str(tmp_path / "no")}})
    text = "\n".join(loaded.warnings)
    assert "can be read by everybody" in text
    assert "does not hold a URL" in text
    assert "cannot be read" in text
    assert "canary" not in text
