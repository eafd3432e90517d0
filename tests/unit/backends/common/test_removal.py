from __future__ import annotations

import os
from pathlib import Path

from backends.common.removal import remove_tree

DEPTH = 1200
"""Deeper than Python recurses, with more levels than descriptors are left beside those in use."""


def nest(directory: Path, depth: int) -> None:
    """A path of so many parts is longer than the system takes at once."""
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_a_tree_of_any_depth_goes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    nest(tree, DEPTH)
    remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_a_wide_tree_goes_with_all_kinds_of_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("a/b", "a/c", "e"):
        (tree / name).mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    os.mkfifo(tree / "e" / "pipe")
    (Path(os.fsdecode(os.fsencode(tree) + b"/\xff"))).mkdir()
    remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "a" / "link").symlink_to(outside)
    remove_tree(tree)
    (tmp_path / "top").symlink_to(outside)
    remove_tree(tmp_path / "top")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "file").read_text() == "x"


def test_a_file_goes_and_nothing_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    remove_tree(tmp_path / "file")
    remove_tree(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
