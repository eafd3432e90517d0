from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.local.data_dir import DataDir, is_in_use
from gateway.local.errors import StartError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_made_private(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "a" / "b")
    assert mode(directory.path) == 0o700
    directory.close()


def test_one_that_is_open_to_others_is_refused_with_the_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(StartError, match=rf"is open to others; chmod 700 {tmp_path}"):
        DataDir(tmp_path)


def test_one_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StartError, match="is not writable"):
        DataDir(tmp_path)
    tmp_path.chmod(0o700)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="is no directory"):
        DataDir(tmp_path / "file")
    with pytest.raises(StartError, match="cannot be made: Not a directory"):
        DataDir(tmp_path / "file" / "below")


def test_what_should_hold_a_secret_and_does_not_is_named(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "data")
    (directory.path / "token").mkdir(mode=0o700)
    with pytest.raises(StartError, match="token should hold a secret and is no file; remove it"):
        directory.secret("token")
    directory.write("password", "")
    (directory.path / "password").write_bytes(b"\xff\x00" * 50)
    with pytest.raises(StartError, match="password should hold a secret and holds no text; remove it"):
        directory.secret("password")
    directory.close()


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StartError, match="is a symbolic link"):
        DataDir(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    os.chown(other, 65_534, 65_534)
    with pytest.raises(StartError, match="belongs to another user"):
        DataDir(other)


def test_a_second_supervisor_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    first = DataDir(tmp_path)
    assert is_in_use(tmp_path)
    with pytest.raises(StartError, match=rf"runs on {tmp_path} already \(pid {os.getpid()}\)"):
        DataDir(tmp_path)
    first.close()
    assert not is_in_use(tmp_path)
    DataDir(tmp_path).close()


def test_a_directory_that_was_never_used_is_not_in_use(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path / "absent")
    assert not is_in_use(tmp_path)


def test_a_secret_is_made_once_private_and_long(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    directory = DataDir(tmp_path)
    path = directory.secret("token", prefix="cf_")
    secret = path.read_text()
    assert mode(path) == 0o600
    assert secret.startswith("cf_")
    assert len(secret) == len("cf_") + 43
    assert directory.secret("token", prefix="cf_").read_text() == secret
    assert directory.secret("other").read_text() != secret
    directory.close()


def test_a_given_secret_replaces_the_one_that_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    directory = DataDir(tmp_path)
    directory.secret("s")
    assert directory.secret("s", given="given").read_text() == "given"
    assert directory.secret("s").read_text() == "given"
    directory.close()


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    directory = DataDir(tmp_path)
    directory.secret("s").chmod(0o644)
    with pytest.raises(StartError, match="is open to others; chmod 600"):
        directory.secret("s")
    directory.close()


def test_an_empty_secret_is_made_anew(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    directory = DataDir(tmp_path)
    directory.write("s", "\n")
    assert len(directory.secret("s").read_text()) == 43
    directory.close()


def test_a_file_is_replaced_in_one_step_and_private_whatever_the_umask(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    directory = DataDir(tmp_path)
    before = os.umask(0)
    try:
        path = directory.write("f", "one")
        (tmp_path / "f.tmp").write_text("left by one that was killed")
        directory.write("f", "two")
    finally:
        os.umask(before)
    assert path.read_text() == "two"
    assert mode(path) == 0o600
    assert not (tmp_path / "f.tmp").exists()
    directory.close()
