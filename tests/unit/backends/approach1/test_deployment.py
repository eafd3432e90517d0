from __future__ import annotations

from pathlib import Path

from backends.approach1.deployment import deployment_of


def test_a_data_directory_has_one_name_and_another_one_has_another(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    name = deployment_of(here)
    assert len(name) == 16
    assert deployment_of(here) == name
    assert deployment_of(there) != name
    assert [path.name for path in here.iterdir()] == ["deployment"]
