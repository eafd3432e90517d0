from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.common.errors import Code, ServiceError
from backends.common.remotes import RemoteRules, _is_public, judge_remote


def repository(path: Path) -> Path:
    (path / "objects").mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    return path


async def refusal(url: object, rules: RemoteRules) -> str:
    with pytest.raises(ServiceError) as caught:
        await judge_remote(str(url), rules)
    assert caught.value.code is Code.REMOTE_REFUSED
    return caught.value.message


async def test_a_repository_below_an_allowed_directory_is_found_by_path_or_url(tmp_path: Path) -> None:
    bare = repository(tmp_path / "a b%.git")
    rules = RemoteRules((tmp_path,))
    remote = await judge_remote(str(bare), rules)
    assert remote.path == str(bare)
    assert await judge_remote(remote.url, rules) == remote
    assert await judge_remote(remote.url.replace("file://", "file://localhost"), rules) == remote


async def test_a_work_tree_stands_for_its_repository(tmp_path: Path) -> None:
    repository(tmp_path / "work" / ".git")
    remote = await judge_remote(str(tmp_path / "work"), RemoteRules((tmp_path,)))
    assert remote.path == str(tmp_path / "work" / ".git")


async def test_what_lies_elsewhere_or_leads_there_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    repository(outside / "a.git")
    inside.mkdir()
    (inside / "link.git").symlink_to(outside / "a.git")
    (inside / "empty").mkdir()
    rules = RemoteRules((inside,))
    urls = ["link.git", "../out/a.git", "../out/nothing.git", "empty", "nothing"]
    # The same words whether it exists or not.
    assert len({await refusal(inside / url, rules) for url in urls}) == 1


async def test_no_local_remote_is_allowed_unless_named(tmp_path: Path) -> None:
    await refusal(repository(tmp_path / "a.git"), RemoteRules())
    await refusal(f"file://elsewhere{tmp_path}/a.git", RemoteRules((tmp_path,)))


async def test_a_named_host_may_be_inside_by_name_or_port() -> None:
    by_port = RemoteRules.from_text("", "127.0.0.1:8080, other")
    assert (await judge_remote("http://127.0.0.1:8080/a", by_port)).pinned is None
    await refusal("http://127.0.0.1:8081/a", by_port)
    named = await judge_remote("http://localhost:99/a", RemoteRules.from_text("", "LOCALHOST"))
    assert named.pinned in {"localhost:99:127.0.0.1", "localhost:99:[::1]"}


def test_lists_are_read_as_their_separators_say(tmp_path: Path) -> None:
    rules = RemoteRules.from_text(f"{tmp_path}{os.pathsep}{os.pathsep}/srv", " A ,,b:1")
    assert rules.local_roots == (tmp_path.resolve(), Path("/srv").resolve())
    assert rules.hosts == {"a", "b:1"}


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert _is_public(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
     "64:ff9b::a00:1", "2002:a00:1::", "2001:0:a00:1::"],
)  # fmt: skip
def test_addresses_that_lead_inside(address: str) -> None:
    assert not _is_public(address)
