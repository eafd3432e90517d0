"""Repositories of odd content: no operation fails by it as if the service were at fault, and none leaves anything."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tests.support.services import RestAgent, Service, bare_repository, git, publish, tree_of
from tests.support.waiting import until


async def ok(agent: RestAgent, operation: str, **arguments: Any) -> dict[str, Any]:
    answer = await agent.call(operation, **arguments)
    assert not answer.is_error, answer.content
    return answer.content


def work_tree(directory: Path) -> Path:
    """A work tree that can be published once more."""
    bare_repository(directory)
    return directory / "project-work"


async def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(rest: RestAgent, tmp_path: Path) -> None:
    work = work_tree(tmp_path)
    (work / os.fsdecode(b"\xff\xfe.txt")).write_text("x")
    await ok(rest, "git.clone", url=str(publish(work, tmp_path / "odd.git")))
    assert "\ufffd\ufffd.txt" in [entry["path"] for entry in (await ok(rest, "file.list"))["entries"]]
    assert (await ok(rest, "git.show", revision="HEAD"))["diff"]
    assert (await ok(rest, "git.status"))["clean"]


async def test_names_with_control_characters_are_names(rest: RestAgent, tmp_path: Path) -> None:
    names = ["a\nb", "\x1b[31mred", "tab\tbed", 'quo"te', " ", "ü", "a:b", "*"]
    work = work_tree(tmp_path)
    for name in names:
        (work / name).write_text("x")
    await ok(rest, "git.clone", url=str(publish(work, tmp_path / "odd.git")))
    for name in names:
        assert (await ok(rest, "file.read", path=name))["content"] == "x"
        await ok(rest, "file.write", path=name, content="y")
    await ok(rest, "git.add", files=names[:4])
    status = await ok(rest, "git.status")
    assert (status["staged"], status["unstaged"]) == (sorted(names[:4]), sorted(names[4:]))


async def test_a_subject_longer_than_what_is_shown_is_cut(rest: RestAgent, bare: Path) -> None:
    tree = git("rev-parse", "main^{tree}", cwd=bare)
    message = bare / "message"
    message.write_text("s" * 600_000)
    git("update-ref", "refs/heads/main", git("commit-tree", tree, "-F", str(message), cwd=bare), cwd=bare)
    await ok(rest, "git.clone", url=str(bare))
    shown = await ok(rest, "git.show", revision="HEAD")
    assert shown["truncated"] is True
    assert shown["diff"] == ""
    assert set(shown["subject"]) == {"s"}
    assert (await ok(rest, "git.log"))["commits"]


async def test_deep_directories_hinder_neither_a_clone_nor_a_restart(
    rest: RestAgent, service: Service, bare: Path
) -> None:
    """Deeper than Python recurses: what a clone replaces has to be removed all the same."""
    await ok(rest, "git.clone", url=str(bare))
    await ok(rest, "file.write", path="d/" * 1200 + "f", content="x")
    assert len((await ok(rest, "git.status"))["untracked"]) == 1
    before = await tree_of(service, rest)
    await ok(rest, "git.clone", url=str(bare))
    assert (await ok(rest, "git.status"))["clean"]
    # A survey of the write before may still look at it; whoever leaves last removes it.
    await until(lambda: not before.exists(), "what was replaced is removed")


async def test_many_reads_at_once_of_many_files_all_succeed(rest: RestAgent, tmp_path: Path) -> None:
    """Git reads a large index with 20 threads, and threads count as processes of the sandbox's user."""
    work = work_tree(tmp_path)
    for number in range(11_000):
        (work / f"{number}").touch()
    await ok(rest, "git.clone", url=str(publish(work, tmp_path / "odd.git")))
    answers = await asyncio.gather(*(rest.call("git.status") for _ in range(50)))
    assert [answer.content for answer in answers if answer.is_error] == []
    assert all(answer.content["clean"] for answer in answers)


async def test_more_branches_than_are_listed_are_too_many(rest: RestAgent, service: Service, bare: Path) -> None:
    head = (await ok(rest, "git.clone", url=str(bare)))["head"]
    packed = (await tree_of(service, rest)) / ".git" / "packed-refs"
    names = sorted(f"{number:05}-{'x' * 200}" for number in range(36_000))
    packed.write_text(
        "# pack-refs with: peeled fully-peeled sorted \n" + "".join(f"{head} refs/heads/{n}\n" for n in names)
    )
    assert (await rest.call("git.branch")).code == "too_large"
