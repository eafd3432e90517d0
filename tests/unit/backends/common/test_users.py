from __future__ import annotations

from pathlib import Path

import pytest

from backends.common.users import UidRange, UserClaims


def sandbox(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


@pytest.fixture
def claims(tmp_path: Path) -> UserClaims:
    (tmp_path / "users").mkdir()
    return UserClaims(tmp_path / "users", UidRange(900_000, 3))


def test_no_two_sandboxes_share_a_user_until_all_are_taken(claims: UserClaims, tmp_path: Path) -> None:
    uids = set()
    for name in ("a", "b", "c"):
        with claims.claimed(sandbox(tmp_path, name)) as uid:
            uids.add(uid)
    assert uids == {900_000, 900_001, 900_002}
    with pytest.raises(OSError, match="taken"), claims.claimed(tmp_path / "d"):
        pass


def test_the_user_of_a_sandbox_that_is_gone_may_be_taken(claims: UserClaims, tmp_path: Path) -> None:
    paths = [sandbox(tmp_path, name) for name in ("a", "b", "c")]
    uids = {}
    for path in paths:
        with claims.claimed(path) as uid:
            uids[path] = uid
    paths[1].rmdir()
    with claims.claimed(sandbox(tmp_path, "d")) as uid:
        assert uid == uids[paths[1]]


def test_a_user_is_given_back_by_its_sandbox_alone(claims: UserClaims, tmp_path: Path) -> None:
    mine = sandbox(tmp_path, "mine")
    with claims.claimed(mine) as uid:
        pass
    claims.release(uid, tmp_path / "other")
    assert (tmp_path / "users" / str(uid)).exists()
    claims.release(uid, mine)
    assert not (tmp_path / "users" / str(uid)).exists()
