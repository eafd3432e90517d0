from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.local.data_dir import DataDir
from gateway.local.errors import StartError
from gateway.local.runtime_file import NAME, read_runtime, write_runtime


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[DataDir]:
    directory = DataDir(tmp_path / "data")
    yield directory
    directory.close()


def test_what_is_written_is_read_with_version_and_the_supervisor(data_dir: DataDir) -> None:
    write_runtime(data_dir, {"migration": "git", "ops": "http://127.0.0.1:1"}, {"redis": 5})
    assert read_runtime(data_dir.path) == {
        "version": 1,
        "migration": "git",
        "ops": "http://127.0.0.1:1",
        "pids": {"supervisor": os.getpid(), "redis": 5},
    }
    assert (data_dir.path / NAME).stat().st_mode & 0o777 == 0o600


def test_what_a_killed_supervisor_left_says_nothing(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "data")
    write_runtime(directory, {}, {})
    directory.close()
    with pytest.raises(StartError, match=r"crossfade does not run on .*; start it: crossfade up --data-dir"):
        read_runtime(directory.path)


def test_while_it_starts_there_is_no_file_yet(data_dir: DataDir) -> None:
    with pytest.raises(StartError, match="is starting or stopping"):
        read_runtime(data_dir.path)


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read"), ('{"version": 2}', "another version")])
def test_a_file_that_is_not_ours_is_refused(data_dir: DataDir, content: str, message: str) -> None:
    data_dir.write(NAME, content)
    with pytest.raises(StartError, match=message):
        read_runtime(data_dir.path)
