"""The policy's copy on disk: never older, never half, never anybody else's."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gateway.core.model import SCOPE_ALL
from gateway.state.snapshot_file import Remembered, SnapshotFile
from tests.integration.state.scene import latch, policy


@pytest.fixture
def file(tmp_path: Path) -> SnapshotFile:
    return SnapshotFile(tmp_path, "git")


def test_what_was_written_is_read(file: SnapshotFile) -> None:
    assert file.read() is None
    assert not file.exists()
    remembered = Remembered(policy(epoch=3, ppm=7), {SCOPE_ALL: latch()})
    assert file.write(remembered)
    assert file.read() == remembered
    assert file.exists()


def test_it_is_readable_by_its_owner_only(file: SnapshotFile) -> None:
    file.write(Remembered(policy()))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_an_older_epoch_never_replaces_a_newer_one(file: SnapshotFile) -> None:
    file.write(Remembered(policy(epoch=5)))
    assert not file.write(Remembered(policy(epoch=4)))
    assert file.read() == Remembered(policy(epoch=5))


def test_another_lineage_replaces_whatever_was_there(file: SnapshotFile) -> None:
    file.write(Remembered(policy(epoch=5)))
    assert file.write(Remembered(policy(epoch=1, lineage="second")))


def test_kills_of_one_epoch_are_those_of_all_who_wrote(file: SnapshotFile) -> None:
    file.write(Remembered(policy(), {SCOPE_ALL: latch()}))
    file.write(Remembered(policy()))
    assert file.read() == Remembered(policy(), {SCOPE_ALL: latch()})
    file.write(Remembered(policy(epoch=2)))
    assert file.read() == Remembered(policy(epoch=2))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version": 2}'])
def test_a_damaged_file_is_set_aside_and_never_decides(file: SnapshotFile, damage: bytes) -> None:
    file.path.write_bytes(damage)
    assert file.read() is None
    assert not file.path.exists()
    assert file.path.with_name(file.path.name + ".damaged").read_bytes() == damage
    assert file.exists(), "a first boot must not take this directory for a fresh one"


def test_a_changed_value_is_found_by_the_checksum(file: SnapshotFile) -> None:
    file.write(Remembered(policy(epoch=3)))
    content = json.loads(file.path.read_text())
    content["policy"] = content["policy"].replace('"epoch":3', '"epoch":9')
    file.path.write_text(json.dumps(content))
    assert file.read() is None


def test_the_file_of_another_migration_is_not_taken(tmp_path: Path, file: SnapshotFile) -> None:
    file.write(Remembered(policy()))
    other = SnapshotFile(tmp_path, "shop")
    file.path.replace(other.path)
    assert other.read() is None


def test_a_leftover_of_a_write_that_was_cut_off_does_not_matter(file: SnapshotFile) -> None:
    file.path.with_name(file.path.name + ".tmp").write_text("half")
    assert file.write(Remembered(policy()))
    assert file.read() == Remembered(policy())
