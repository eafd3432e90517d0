from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.local.data_dir import DataDir
from gateway.local.embedded_redis import find_server, prepare_redis
from gateway.local.errors import StartError


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_server_that_is_named_comes_first(tmp_path: Path) -> None:
    named, on_path = program(tmp_path / "named" / "my-redis"), program(tmp_path / "bin" / "redis-server")
    env = {"CROSSFADE_REDIS_SERVER": str(named), "PATH": str(on_path.parent)}
    assert find_server(env) == str(named)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_one_on_the_path_comes_next(tmp_path: Path, name: str) -> None:
    assert find_server({"PATH": str(program(tmp_path / name).parent)}) == str(tmp_path / name)


def test_the_one_beside_the_interpreter_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = program(tmp_path / "venv" / "redis-server")
    monkeypatch.setattr(sys, "executable", str(beside.parent / "python"))
    assert find_server({"PATH": str(tmp_path)}) == str(beside)


def test_a_named_server_that_is_no_program_is_an_error_of_its_own(tmp_path: Path) -> None:
    program(tmp_path / "redis-server")
    with pytest.raises(StartError, match="CROSSFADE_REDIS_SERVER names /nonexistent/redis, which is no program"):
        find_server({"CROSSFADE_REDIS_SERVER": "/nonexistent/redis", "PATH": str(tmp_path)})


def test_without_any_the_message_names_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(StartError, match=r"(?s)on PATH.*CROSSFADE_REDIS_SERVER.*redis_url"):
        find_server({"PATH": str(tmp_path)})


def test_the_password_stands_in_private_files_only(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "data")
    redis = prepare_redis(directory, {"PATH": str(program(tmp_path / "redis-server").parent)})
    password = redis.password_file.read_text()
    assert not any(password in argument for argument in redis.command)
    assert password not in redis.url
    holders = [path for path in directory.path.rglob("*") if path.is_file() and password in path.read_text()]
    assert {path.name for path in holders} == {"redis.password", "redis.conf"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in holders)
    directory.close()


def test_a_long_path_moves_the_socket_to_a_short_private_directory(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / ("x" * 100))
    redis = prepare_redis(directory, {"PATH": str(program(tmp_path / "redis-server").parent)})
    assert len(bytes(redis.socket_path)) <= 100
    assert redis.socket_path.parent.stat().st_mode & 0o777 == 0o700
    redis.clean_up()
    assert not redis.socket_path.parent.exists()
    assert directory.path.exists()
    directory.close()
