"""What is installed is what is here."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("gateway", "backends")
        for path in (*(ROOT / top).rglob("*.py"), *(ROOT / top).rglob("*.lua"))
    }
    assert set(listed) == found | {"crossfade_config"}


def test_lock_files_name_no_place_to_download_from() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        assert "://" not in lock.read_text()
