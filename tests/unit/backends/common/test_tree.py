from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.common.errors import Code, ServiceError
from backends.common.tree import LIST_LIMIT, Tree, is_git_directory, split_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "src").mkdir(parents=True)
    (tmp_path / "tree" / "a.txt").write_text("a")
    (tmp_path / "staging").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def tree(root: Path) -> Tree:
    return Tree(root, None, root.parent / "staging")


def code_of(exc: pytest.ExceptionInfo[ServiceError]) -> Code:
    return exc.value.code


def test_paths_are_split_and_dots_dropped() -> None:
    assert split_path("./a//b/./c/") == ["a", "b", "c"]
    assert split_path(".") == []


@pytest.mark.parametrize("path", ["/a", "a/../b", "..", "a\\b", "a\0", "x" * 256, "ü" * 128])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ServiceError) as caught:
        split_path(path)
    assert code_of(caught) is Code.PATH_REFUSED


@pytest.mark.parametrize(
    "name",
    [".git", ".GIT", ".gIt", ".git.", ".git ", ".git . .", "git~1", "GIT~1", "git~12", ".git~1", ".git:x",
     ".git::$INDEX_ALLOCATION", ".g\u200bit", "\u200e.git", ".git\ufeff", "．git", ".ｇｉｔ"],
)  # fmt: skip
def test_spellings_of_gits_directory(name: str) -> None:
    assert is_git_directory(name)


@pytest.mark.parametrize("name", [".gitignore", ".github", "git", "agit~1", "git~", "git~x", ".git-x", "x.git", ".gi"])
def test_names_that_are_not_gits_directory(name: str) -> None:
    assert not is_git_directory(name)


def test_a_file_appears_whole_and_keeps_its_mode(tree: Tree, root: Path) -> None:
    (root / "a.txt").chmod(0o755)
    tree.write("a.txt", b"new")
    tree.write("deep/er/b.txt", b"b")
    assert (root / "a.txt").read_bytes() == b"new"
    assert (root / "a.txt").stat().st_mode & 0o777 == 0o755
    assert (root / "deep" / "er" / "b.txt").stat().st_mode & 0o777 == 0o644
    assert list((root.parent / "staging").iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tree: Tree, root: Path) -> None:
    with pytest.raises(ServiceError) as caught:
        tree.write("src", b"x")
    assert code_of(caught) is Code.CONFLICT
    with pytest.raises(ServiceError) as caught:
        tree.write("a.txt/b", b"x")
    assert code_of(caught) is Code.PATH_REFUSED
    assert list((root.parent / "staging").iterdir()) == []


def test_no_call_follows_a_link(tree: Tree, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("secret")
    (root / "file").symlink_to(outside / "x")
    (root / "dir").symlink_to(outside)
    for call in (
        lambda: tree.read("file", 9), lambda: tree.read("dir/x", 9), lambda: tree.write("file", b""),
        lambda: tree.write("dir/y", b""), lambda: tree.write("dir/new/y", b""), lambda: tree.delete("dir/x"),
        lambda: tree.entries("dir"),
    ):  # fmt: skip
        with pytest.raises(ServiceError) as caught:
            call()
        assert code_of(caught) is Code.PATH_REFUSED
    tree.delete("file")
    assert [path.name for path in outside.iterdir()] == ["x"]


def test_what_is_no_file_is_never_read(tree: Tree, root: Path) -> None:
    os.mkfifo(root / "pipe")
    for path in ("pipe", "src"):
        with pytest.raises(ServiceError) as caught:
            tree.read(path, 9)
        assert code_of(caught) is Code.INVALID_ARGUMENT


def test_reading_stops_at_the_limit_and_says_the_size(tree: Tree) -> None:
    tree.write("long", b"0123456789")
    assert tree.read("long", 4) == (b"0123", 10)


def test_a_listing_is_sorted_and_leaves_gits_directory_out(tree: Tree, root: Path) -> None:
    for name in (".git", "z", "b"):
        (root / name).mkdir()
    assert [entry.path for entry in tree.entries("")] == ["a.txt", "b", "src", "z"]


def test_a_directory_of_too_many_entries_is_not_listed(root: Path, tree: Tree) -> None:
    (root / ".git").mkdir()
    for number in range(LIST_LIMIT - 2):
        (root / f"{number}").touch()
    assert len(tree.entries("")) == LIST_LIMIT
    (root / "one-more").touch()
    with pytest.raises(ServiceError) as caught:
        tree.entries("")
    assert code_of(caught) is Code.TOO_LARGE
