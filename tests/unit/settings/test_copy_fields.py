"""The file of fields that copies of reads carry is read when the migration file is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.core.mirroring import read_copy_fields
from gateway.settings import SettingsError, load_migration


def load(tmp_path: Path, headers: Path) -> None:
    content = {
        "migration": "m",
        "sides": {
            "old": {"instances": ["http://127.0.0.1:9"]},
            "new": {"instances": ["http://127.0.0.1:10"], "mirror_headers_file": str(headers)},
        },
        "operations": {"a": {"class": "read", "match": {"rest": "GET /a"}}},
    }
    file = tmp_path / "migration.yaml"
    file.write_text(json.dumps(content))
    load_migration(file)


def test_fields_are_read() -> None:
    found = read_copy_fields("# a comment\n\nAuthorization: Bearer x:y\nX-One:  2 \n")
    assert found == ((b"authorization", b"Bearer x:y"), (b"x-one", b"2"))


@pytest.mark.parametrize("content", ["no field", "a b: c", ": x", "X: a\x01b", "Ü: x"])
def test_what_is_no_field_is_a_load_error_that_shows_no_value(tmp_path: Path, content: str) -> None:
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer canary\n" + content)
    with pytest.raises(SettingsError, match="line 2 is no header field") as caught:
        load(tmp_path, headers)
    assert "canary" not in str(caught.value)


def test_a_file_that_is_not_there_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path, tmp_path / "nothing")
