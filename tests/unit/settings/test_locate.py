"""Which file is used: the named one, else the one here, else the packaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import load_migration, locate_gateway, locate_migration
from gateway.settings.locate import packaged


def here_with(directory: Path, name: str) -> Path:
    file = directory / "config" / name
    file.parent.mkdir()
    file.write_text("")
    return file


def test_a_named_file_is_taken_as_it_is(tmp_path: Path) -> None:
    here_with(tmp_path, "migration.yaml")
    assert locate_migration(Path("mine.yaml"), tmp_path) == Path("mine.yaml")
    assert locate_gateway(Path("mine.yaml"), tmp_path) == Path("mine.yaml")


def test_the_files_of_the_directory_come_next(tmp_path: Path) -> None:
    migration = here_with(tmp_path, "migration.yaml")
    (tmp_path / "config" / "gateway.yaml").write_text("")
    assert locate_migration(None, tmp_path) == migration
    assert locate_gateway(None, tmp_path) == tmp_path / "config" / "gateway.yaml"


def test_the_directory_is_the_working_one_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = here_with(tmp_path, "migration.yaml")
    monkeypatch.chdir(tmp_path)
    assert locate_migration(None).resolve() == migration.resolve()


def test_without_any_the_packaged_migration_is_used_and_loads(tmp_path: Path) -> None:
    found = locate_migration(None, tmp_path)
    assert not found.is_relative_to(tmp_path)
    assert load_migration(found).definition.migration == "git"


def test_without_any_a_gateway_has_its_defaults(tmp_path: Path) -> None:
    assert locate_gateway(None, tmp_path) is None


def test_a_packaged_file_that_is_not_there_is_said() -> None:
    with pytest.raises(FileNotFoundError, match=r"packaged none\.yaml is missing; reinstall crossfade"):
        packaged("none.yaml")
