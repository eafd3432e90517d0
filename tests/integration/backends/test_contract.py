"""What every operation does, the same on both services and over REST and MCP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from backends.common.contract import OPERATIONS
from tests.integration.backends.conftest import PLACES, service_in
from tests.support.services import SERVICES, Agent, Service, Workspace, agent_on, bare_repository, git, publish

pytestmark = pytest.mark.everywhere


@pytest.fixture(params=[*PLACES, *(f"{name}/gateway" for name in SERVICES)])
def service(request: pytest.FixtureRequest) -> Service:
    """Each service with each provider of sandboxes and each database, directly and through the gateway."""
    return service_in(request.param, request)


async def ok(agent: Agent, operation: str, **arguments: Any) -> dict[str, Any]:
    answer = await agent.call(operation, **arguments)
    assert not answer.is_error, answer.content
    return answer.content


async def code(agent: Agent, operation: str, **arguments: Any) -> str | None:
    answer = await agent.call(operation, **arguments)
    assert answer.is_error, answer.content
    return answer.code


# --- clone ---------------------------------------------------------------------------------------------------------


async def test_a_clone_says_branch_and_head(agent: Agent, bare: Path) -> None:
    head = git("rev-parse", "main", cwd=bare)
    assert await ok(agent, "git.clone", url=str(bare)) == {"branch": "main", "head": head}


async def test_a_clone_by_file_url_and_of_one_branch_and_depth(agent: Agent, bare: Path) -> None:
    git("branch", "topic", "main", cwd=bare)
    cloned = await ok(agent, "git.clone", url=bare.as_uri(), branch="topic", depth=1)
    assert cloned["branch"] == "topic"


async def test_an_empty_repository_can_be_cloned_and_filled(agent: Agent, tmp_path: Path) -> None:
    empty = tmp_path / "empty.git"
    git("init", "--quiet", "--bare", "--initial-branch=main", str(empty))
    assert await ok(agent, "git.clone", url=str(empty)) == {"branch": "main", "head": None}
    assert await ok(agent, "git.log") == {"commits": []}
    assert (await ok(agent, "git.branch"))["branches"] == []
    await ok(agent, "file.write", path="a", content="1")
    await ok(agent, "git.add", files=["."])
    head = (await ok(agent, "git.commit", message="first"))["head"]
    await ok(agent, "git.push")
    assert git("rev-parse", "main", cwd=empty) == head


async def test_a_clone_replaces_what_was_there(cloned: Agent, tmp_path: Path) -> None:
    await ok(cloned, "file.write", path="mine.txt", content="x")
    other = bare_repository(tmp_path, "other")
    await ok(cloned, "git.clone", url=str(other))
    assert (await ok(cloned, "git.status"))["clean"]
    await ok(cloned, "git.push")  # to the other one


async def test_a_clone_that_fails_leaves_what_was_there(cloned: Agent, tmp_path: Path, bare: Path) -> None:
    await ok(cloned, "file.write", path="mine.txt", content="x")
    assert await code(cloned, "git.clone", url=str(bare), branch="no-such-branch") == "not_found"
    assert (await ok(cloned, "git.status"))["untracked"] == ["mine.txt"]


async def test_nothing_but_a_clone_works_where_nothing_was_cloned(agent: Agent) -> None:
    calls: dict[str, dict[str, Any]] = {
        "git.pull": {},
        "git.push": {},
        "git.add": {"files": ["a"]},
        "git.commit": {"message": "m"},
        "git.reset": {},
        "git.checkout": {"branch": "main"},
        "git.create_branch": {"name": "b"},
        "git.status": {},
        "git.branch": {},
        "git.diff": {},
        "git.log": {},
        "git.show": {"revision": "HEAD"},
        "file.write": {"path": "a", "content": ""},
        "file.delete": {"path": "a"},
        "file.read": {"path": "a"},
        "file.list": {},
    }
    assert {"git.clone", *calls} == set(OPERATIONS)
    for operation, arguments in calls.items():
        assert await code(agent, operation, **arguments) == "unknown_workspace"


# --- changes -------------------------------------------------------------------------------------------------------


async def test_work_goes_from_a_file_to_the_remote(cloned: Agent, bare: Path) -> None:
    before = git("rev-parse", "main", cwd=bare)
    content = "grüße\n"
    written = await ok(cloned, "file.write", path="docs/a b.txt", content=content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    assert written == {"path": "docs/a b.txt", "size": len(content.encode()), "sha256": digest}
    assert await ok(cloned, "git.add", files=["docs"]) == {"staged": ["docs/a b.txt"]}
    head = await ok(cloned, "git.commit", message="Add a page\n\nwith a body", author_name="Ann", author_email="a@b.c")
    assert head["branch"] == "main"
    assert head["head"] != before
    pushed = {"remote": "origin", "branch": "main", "head": head["head"], "pushed": True}
    assert await ok(cloned, "git.push") == pushed
    assert await ok(cloned, "git.push") == {**pushed, "pushed": False}
    shown = git("log", "-1", "--format=%H %an %ae %cn %s", "main", cwd=bare)
    assert shown == f"{head['head']} Ann a@b.c Ann Add a page"
    assert git("show", "main:docs/a b.txt", cwd=bare) == content.strip()


async def test_a_missing_author_is_the_agent(cloned: Agent) -> None:
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    await ok(cloned, "git.commit", message="m")
    newest = (await ok(cloned, "git.log", max_count=1))["commits"][0]
    assert (newest["author_name"], newest["author_email"]) == ("Crossfade Agent", "agent@crossfade.invalid")


async def test_nothing_staged_is_nothing_to_commit(cloned: Agent) -> None:
    assert await code(cloned, "git.commit", message="m") == "nothing_to_commit"
    await ok(cloned, "file.write", path="README.md", content="changed")
    assert await code(cloned, "git.commit", message="m") == "nothing_to_commit"


async def test_a_message_of_nothing_but_comments_is_refused(cloned: Agent) -> None:
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    assert await code(cloned, "git.commit", message="# only\n# comments") == "invalid_argument"
    assert await code(cloned, "git.commit", message=" \n") == "invalid_argument"


async def test_adding_what_is_not_there_says_so(cloned: Agent) -> None:
    assert await code(cloned, "git.add", files=["nowhere"]) == "not_found"


async def test_adding_takes_names_literally(cloned: Agent) -> None:
    await ok(cloned, "file.write", path="*.txt", content="1")
    await ok(cloned, "file.write", path="a.txt", content="1")
    assert await ok(cloned, "git.add", files=["*.txt"]) == {"staged": ["*.txt"]}
    assert await code(cloned, "git.add", files=[":/", ":(top)a.txt"]) == "not_found"


async def test_a_deleted_file_can_be_staged(cloned: Agent) -> None:
    assert await ok(cloned, "file.delete", path="src/main.py") == {"path": "src/main.py"}
    assert (await ok(cloned, "git.status"))["unstaged"] == ["src/main.py"]
    assert await ok(cloned, "git.add", files=["src/main.py"]) == {"staged": ["src/main.py"]}


async def test_branches_are_made_switched_and_listed(cloned: Agent, bare: Path) -> None:
    head = git("rev-parse", "main", cwd=bare)
    assert await ok(cloned, "git.create_branch", name="feature/x") == {"branch": "feature/x", "head": head}
    assert await code(cloned, "git.create_branch", name="feature/x") == "conflict"
    assert await code(cloned, "git.create_branch", name="y", base="no-such") == "not_found"
    assert await ok(cloned, "git.create_branch", name="old", base="main") == {"branch": "old", "head": head}
    assert await ok(cloned, "git.checkout", branch="main") == {"branch": "main", "head": head}
    names = ["feature/x", "main", "old"]
    listed = {"current": "main", "branches": [{"name": name, "head": head} for name in names]}
    assert await ok(cloned, "git.branch") == listed
    assert await code(cloned, "git.checkout", branch="no-such") == "not_found"


async def test_a_branch_of_the_remote_can_be_checked_out(agent: Agent, bare: Path) -> None:
    git("branch", "topic", "main", cwd=bare)
    await ok(agent, "git.clone", url=str(bare))
    assert (await ok(agent, "git.checkout", branch="topic"))["branch"] == "topic"
    assert (await ok(agent, "git.pull"))["updated"] is False


async def test_a_checkout_never_takes_a_file_for_a_branch(cloned: Agent) -> None:
    await ok(cloned, "file.write", path="README.md", content="mine")
    assert await code(cloned, "git.checkout", branch="README.md") == "not_found"
    assert (await ok(cloned, "file.read", path="README.md"))["content"] == "mine"


async def test_a_checkout_never_overwrites_changes(cloned: Agent) -> None:
    await ok(cloned, "git.create_branch", name="other")
    await ok(cloned, "file.write", path="README.md", content="theirs")
    await ok(cloned, "git.add", files=["README.md"])
    await ok(cloned, "git.commit", message="m")
    await ok(cloned, "git.checkout", branch="main")
    await ok(cloned, "file.write", path="README.md", content="mine")
    assert await code(cloned, "git.checkout", branch="other") == "conflict"


@pytest.mark.parametrize(
    ("mode", "staged", "unstaged"), [("soft", ["README.md"], []), ("mixed", [], ["README.md"]), ("hard", [], [])]
)
async def test_a_reset_undoes_what_its_mode_says(
    cloned: Agent, bare: Path, mode: str, staged: list[str], unstaged: list[str]
) -> None:
    await ok(cloned, "file.write", path="README.md", content="changed")
    await ok(cloned, "git.add", files=["README.md"])
    head = git("rev-parse", "main", cwd=bare)
    assert await ok(cloned, "git.reset", mode=mode) == {"branch": "main", "head": head, "mode": mode}
    status = await ok(cloned, "git.status")
    assert (status["staged"], status["unstaged"]) == (staged, unstaged)


# --- pull and push -------------------------------------------------------------------------------------------------


async def _another_commit(bare: Path, tmp_path: Path, name: str = "theirs.txt") -> str:
    work = tmp_path / f"work-{name}"
    await asyncio.to_thread(git, "clone", "--quiet", str(bare), str(work))
    (work / name).write_text("theirs")
    git("add", "--all", cwd=work)
    git("commit", "--quiet", "--message=theirs", cwd=work)
    git("push", "--quiet", cwd=work)
    return git("rev-parse", "HEAD", cwd=work)


async def test_a_pull_brings_what_others_pushed(cloned: Agent, bare: Path, tmp_path: Path) -> None:
    theirs = await _another_commit(bare, tmp_path)
    assert await ok(cloned, "git.pull") == {"branch": "main", "head": theirs, "updated": True}
    assert await ok(cloned, "git.pull") == {"branch": "main", "head": theirs, "updated": False}
    assert (await ok(cloned, "file.read", path="theirs.txt"))["content"] == "theirs"


async def test_branches_that_both_moved_on_are_diverged(cloned: Agent, bare: Path, tmp_path: Path) -> None:
    theirs = await _another_commit(bare, tmp_path)
    await ok(cloned, "file.write", path="mine.txt", content="mine")
    await ok(cloned, "git.add", files=["mine.txt"])
    mine = (await ok(cloned, "git.commit", message="mine"))["head"]
    assert await code(cloned, "git.push") == "diverged"
    assert git("rev-parse", "main", cwd=bare) == theirs
    assert await code(cloned, "git.pull") == "diverged"
    status = await ok(cloned, "git.status")
    assert (status["head"], status["clean"]) == (mine, True)


async def test_a_pull_never_overwrites_changes(cloned: Agent, bare: Path, tmp_path: Path) -> None:
    await _another_commit(bare, tmp_path, "new.txt")
    await ok(cloned, "file.write", path="new.txt", content="mine")
    assert await code(cloned, "git.pull") == "conflict"
    assert (await ok(cloned, "file.read", path="new.txt"))["content"] == "mine"


async def test_branches_and_remotes_that_do_not_exist_are_not_found(cloned: Agent) -> None:
    assert await code(cloned, "git.pull", branch="no-such") == "not_found"
    assert await code(cloned, "git.push", branch="no-such") == "not_found"
    assert await code(cloned, "git.pull", remote="upstream") == "not_found"
    assert await code(cloned, "git.push", remote="upstream") == "not_found"


async def test_names_of_branches_that_cannot_be_are_told_apart(cloned: Agent) -> None:
    assert await code(cloned, "git.create_branch", name="main/x") == "conflict"
    assert await code(cloned, "git.create_branch", name="HEAD") == "invalid_argument"
    assert await code(cloned, "git.create_branch", name="b", base="no-such") == "not_found"


async def test_an_author_of_nothing_but_punctuation_is_refused(cloned: Agent) -> None:
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    assert await code(cloned, "git.commit", message="m", author_name="., ;") == "invalid_argument"


async def test_as_many_long_paths_as_may_be_given_can_be_added(cloned: Agent) -> None:
    """Together they are longer than a command line may be."""
    path = "/".join(["d" * 240] * 15)
    await ok(cloned, "file.write", path=f"{path}/f", content="x")
    assert (await ok(cloned, "git.add", files=[f"{path}/f"] * 1000))["staged"] == [f"{path}/f"]


async def test_another_branch_can_be_pushed(cloned: Agent, bare: Path) -> None:
    await ok(cloned, "git.create_branch", name="topic")
    await ok(cloned, "git.checkout", branch="main")
    assert (await ok(cloned, "git.push", branch="topic"))["pushed"] is True
    assert git("rev-parse", "topic", cwd=bare) == git("rev-parse", "main", cwd=bare)


async def test_what_the_remote_rejects_is_a_conflict_and_not_a_divergence(agent: Agent, tmp_path: Path) -> None:
    bare_repository(tmp_path)
    await ok(agent, "git.clone", url=str(tmp_path / "project-work"))  # has `main` checked out
    await ok(agent, "file.write", path="a", content="1")
    await ok(agent, "git.add", files=["a"])
    await ok(agent, "git.commit", message="m")
    assert await code(agent, "git.push") == "conflict"


async def test_two_agents_share_one_remote(service: Service, bare: Path) -> None:
    for number in range(3):
        async with agent_on("rest", service.url, Workspace(agent=f"{bare.parent.name}-{number}")) as agent:
            await ok(agent, "git.clone", url=str(bare))
            await ok(agent, "file.write", path=f"{number}.txt", content="x")
            await ok(agent, "git.add", files=["."])
            await ok(agent, "git.commit", message=f"commit {number}")
            await ok(agent, "git.push")
    assert git("log", "--format=%s", "main", cwd=bare).splitlines() == ["commit 2", "commit 1", "commit 0", "first"]
    git("fsck", "--strict", cwd=bare)


# --- reads ---------------------------------------------------------------------------------------------------------


async def test_a_status_sorts_paths_and_tells_them_apart(cloned: Agent, bare: Path) -> None:
    head = git("rev-parse", "main", cwd=bare)
    clean = {"branch": "main", "head": head, "clean": True, "staged": [], "unstaged": [], "untracked": []}
    assert await ok(cloned, "git.status") == clean
    for path in ("z", "b/c", "b/a", "ü name"):
        await ok(cloned, "file.write", path=path, content="1")
    await ok(cloned, "git.add", files=["z"])
    await ok(cloned, "file.write", path="README.md", content="changed")
    dirty = {"clean": False, "staged": ["z"], "unstaged": ["README.md"], "untracked": ["b/a", "b/c", "ü name"]}
    assert await ok(cloned, "git.status") == {**clean, **dirty}


async def test_a_diff_shows_the_tree_or_the_index(cloned: Agent) -> None:
    assert await ok(cloned, "git.diff") == {"diff": "", "truncated": False}
    await ok(cloned, "file.write", path="README.md", content="changed\n")
    shown = await ok(cloned, "git.diff", context_lines=0)
    assert shown["diff"].endswith("@@ -1 +1 @@\n-hello\n+changed\n")
    assert (await ok(cloned, "git.diff", staged=True))["diff"] == ""
    await ok(cloned, "git.add", files=["README.md"])
    assert (await ok(cloned, "git.diff", staged=True, context_lines=0))["diff"] == shown["diff"]


async def test_a_log_lists_commits_newest_first(cloned: Agent, bare: Path) -> None:
    first = git("rev-parse", "main", cwd=bare)
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    second = (await ok(cloned, "git.commit", message="Zweiter – ü"))["head"]
    commits = (await ok(cloned, "git.log"))["commits"]
    assert [commit["sha"] for commit in commits] == [second, first]
    assert commits[0]["subject"] == "Zweiter – ü"
    assert commits[1] == {
        "sha": first,
        "author_name": "Somebody",
        "author_email": "somebody@example.invalid",
        "date": "2023-11-14T22:13:20+00:00",
        "subject": "first",
    }
    assert [commit["sha"] for commit in (await ok(cloned, "git.log", max_count=1))["commits"]] == [second]


async def test_show_is_one_commit_and_its_diff(cloned: Agent) -> None:
    shown = await ok(cloned, "git.show", revision="HEAD")
    assert set(shown) == {"sha", "author_name", "author_email", "date", "subject", "diff", "truncated"}
    assert "+hello" in shown["diff"]
    assert shown["diff"].startswith("diff --git ")
    assert await code(cloned, "git.show", revision="no-such") == "not_found"
    assert await code(cloned, "git.show", revision="HEAD:README.md") == "invalid_argument"


async def test_what_is_too_long_is_truncated_and_says_so(cloned: Agent) -> None:
    for shift in ("", "x"):  # the cut falls between two bytes of a character in one of them
        await ok(cloned, "file.write", path="README.md", content=shift + ("ü" * 63 + "\n") * 8000)
        shown = await ok(cloned, "git.diff")
        assert shown["truncated"] is True
        assert 255 * 1024 < len(shown["diff"].encode()) <= 256 * 1024
        assert "\ufffd" not in shown["diff"]
    await ok(cloned, "git.add", files=["README.md"])
    await ok(cloned, "git.commit", message="long")
    shown = await ok(cloned, "git.show", revision="HEAD")
    assert shown["truncated"] is True
    assert "\ufffd" not in shown["diff"]


# --- files ---------------------------------------------------------------------------------------------------------


async def test_files_are_read_written_listed_and_deleted(cloned: Agent) -> None:
    read = {"path": "README.md", "content": "hello\n", "encoding": "utf-8", "size": 6, "truncated": False}
    assert await ok(cloned, "file.read", path="./README.md") == read
    listed = [
        {"path": "README.md", "type": "file", "size": 6},
        {"path": "run.sh", "type": "file", "size": 10},
        {"path": "src", "type": "dir", "size": None},
    ]
    assert await ok(cloned, "file.list") == {"entries": listed}
    assert await ok(cloned, "file.list", path="src/") == {
        "entries": [{"path": "src/main.py", "type": "file", "size": 15}]
    }
    await ok(cloned, "file.delete", path="README.md")
    assert await code(cloned, "file.read", path="README.md") == "not_found"
    assert await code(cloned, "file.delete", path="README.md") == "not_found"
    assert await code(cloned, "file.list", path="no-such") == "not_found"


async def test_writing_keeps_a_program_executable(cloned: Agent) -> None:
    await ok(cloned, "file.write", path="run.sh", content="#!/bin/sh\nexit\n")
    assert "mode" not in (await ok(cloned, "git.diff"))["diff"]


async def test_a_directory_is_no_file(cloned: Agent) -> None:
    assert await code(cloned, "file.read", path="src") == "invalid_argument"
    assert await code(cloned, "file.delete", path="src") == "invalid_argument"
    assert await code(cloned, "file.write", path="src", content="") == "conflict"
    assert await code(cloned, "file.write", path=".", content="") == "invalid_argument"


async def test_what_is_no_text_comes_as_base64(agent: Agent, tmp_path: Path) -> None:
    bare_repository(tmp_path)
    work = tmp_path / "project-work"
    content = bytes(range(256))
    (work / "blob").write_bytes(content)
    await ok(agent, "git.clone", url=str(publish(work, tmp_path / "blob.git")))
    read = await ok(agent, "file.read", path="blob")
    assert (read["encoding"], base64.b64decode(read["content"])) == ("base64", content)


async def test_a_long_file_is_truncated_at_a_character(agent: Agent, tmp_path: Path) -> None:
    bare_repository(tmp_path)
    work = tmp_path / "project-work"
    text = "x" + "ü" * (1 << 20)
    (work / "long").write_text(text)
    await ok(agent, "git.clone", url=str(publish(work, tmp_path / "long.git")))
    read = await ok(agent, "file.read", path="long")
    assert (read["encoding"], read["truncated"], read["size"]) == ("utf-8", True, len(text.encode()))
    assert text.startswith(read["content"])


async def test_too_long_a_file_is_not_written(cloned: Agent) -> None:
    assert await code(cloned, "file.write", path="a", content="ü" * ((1 << 19) + 1)) == "too_large"
    assert (await ok(cloned, "git.status"))["clean"]


# --- tools ---------------------------------------------------------------------------------------------------------


async def test_both_services_offer_the_same_tools_with_schemas_and_hints(services: dict[str, Service]) -> None:
    offered = []
    for service in services.values():
        async with Client(f"{service.url}/mcp", mode="2026-07-28") as client:
            offered.append([tool.model_dump(mode="json") for tool in (await client.list_tools()).tools])
    assert offered[0] == offered[1]
    tools = {tool["name"]: tool for tool in offered[0]}
    assert set(tools) == {name.replace(".", "_") for name in OPERATIONS}
    for operation in OPERATIONS.values():
        tool = tools[operation.tool]
        assert tool["annotations"]["read_only_hint"] is not operation.is_write
        assert tool["annotations"]["open_world_hint"] is operation.leaves_sandbox
        assert tool["input_schema"]["additionalProperties"] is False
        assert tool["output_schema"]["additionalProperties"] is False
    assert tools["git_clone"]["input_schema"]["required"] == ["url"]
    assert tools["git_reset"]["annotations"]["destructive_hint"] is True


async def test_a_git_that_was_killed_does_not_block_the_workspace(
    cloned: Agent, service: Service, workspace: Workspace
) -> None:
    """What the service kills, at a deadline or when its client leaves, may leave git's own locks behind."""
    tree = await repository_of(service, cloned, workspace)
    for lock in ("index.lock", "HEAD.lock", "refs/heads/main.lock", "packed-refs.lock"):
        (tree / ".git" / lock).write_text("")
    await ok(cloned, "file.write", path="a", content="1")
    await ok(cloned, "git.add", files=["a"])
    await ok(cloned, "git.commit", message="after all")
    await ok(cloned, "git.create_branch", name="topic")


async def repository_of(service: Service, agent: Agent, workspace: Workspace) -> Path:
    """Where the repository of a workspace lies, whoever provides its sandbox."""
    mark = f"mark-{workspace.agent}"
    await ok(agent, "file.write", path=mark, content="")
    found = await asyncio.to_thread(lambda: list(service.sandbox_root.rglob(mark)))
    await ok(agent, "file.delete", path=mark)
    return next(path.parent for path in found)
