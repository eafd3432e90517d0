"""What callers and repositories may try, and that nothing of it reaches beyond the workspace. Both services."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.services import (
    TOKEN,
    RestAgent,
    Service,
    Workspace,
    agent_on,
    bare_repository,
    git,
    has_been_surveyed,
    publish,
    tree_of,
)


@pytest.fixture
async def cloned(rest: RestAgent, bare: Path) -> RestAgent:
    answer = await rest.call("git.clone", url=str(bare))
    assert not answer.is_error, answer.content
    return rest


# --- paths ---------------------------------------------------------------------------------------------------------

GIT_NAMES = [
    ".git",
    ".GIT",
    ".Git",
    "git~1",
    "GIT~1",
    "git~2",
    ".git ",
    ".git.",
    ".git. .",
    ".git::$INDEX_ALLOCATION",
    ".git:stream",
    ".g\u200cit",
    "\ufeff.git",
    ".gi\u200ft",
    ".git\u2060",
    "./.git",
    "src/../.git",
    "src/.git",
]
FILE_CALLS: list[tuple[str, dict[str, str]]] = [
    ("file.write", {"content": "x"}),
    ("file.read", {}),
    ("file.delete", {}),
    ("file.list", {}),
]
OUTSIDE = ["d/" * 2000 + "f", "/etc/passwd", "..", "../x", "src/../../x", "src\\..\\x", "a\0b", "x" * 256]


async def test_no_spelling_of_gits_directory_is_a_path(cloned: RestAgent) -> None:
    for path in (*GIT_NAMES, *(f"{name}/hooks/pre-commit" for name in GIT_NAMES)):
        for operation, more in FILE_CALLS:
            assert (await cloned.call(operation, path=path, **more)).code == "path_refused", path
        assert (await cloned.call("git.add", files=[path])).code == "path_refused"


async def test_no_path_leads_out_of_the_repository(cloned: RestAgent) -> None:
    for path in OUTSIDE:
        for operation, more in FILE_CALLS:
            assert (await cloned.call(operation, path=path, **more)).code == "path_refused", path
        assert (await cloned.call("git.add", files=[path])).code == "path_refused"


async def test_names_that_only_look_alike_are_files(cloned: RestAgent) -> None:
    for name in (".gitignore", ".gitattributes", ".github/x", "git", "digit~1", ".gitx"):
        assert not (await cloned.call("file.write", path=name, content="x")).is_error, name


@pytest.mark.everywhere
async def test_no_link_is_followed(rest: RestAgent, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    bare_repository(tmp_path)
    work = tmp_path / "project-work"
    (work / "link.txt").symlink_to(outside / "secret.txt")
    (work / "directory").symlink_to(outside)
    (work / "inner").symlink_to("src")
    (work / "dotgit").symlink_to(".git")
    assert not (await rest.call("git.clone", url=str(publish(work, tmp_path / "links.git")))).is_error
    for path in ("link.txt", "directory/secret.txt", "directory/new.txt", "inner/main.py", "dotgit/config"):
        assert (await rest.call("file.read", path=path)).code in {"path_refused", "not_found"}, path
        assert (await rest.call("file.write", path=path, content="x")).code == "path_refused", path
    for path in ("directory", "inner", "dotgit", "directory/sub"):
        assert (await rest.call("file.list", path=path)).code == "path_refused", path
    assert (await rest.call("file.delete", path="directory/secret.txt")).code == "path_refused"
    assert (outside / "secret.txt").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    kinds = {entry["path"]: entry["type"] for entry in (await rest.call("file.list")).content["entries"]}
    assert kinds["link.txt"] == kinds["directory"] == "symlink"
    # The link itself may go.
    assert not (await rest.call("file.delete", path="link.txt")).is_error


# --- what a repository brings along ---------------------------------------------------------------------------------


@pytest.mark.everywhere
async def test_nothing_that_is_planted_in_gits_directory_runs(cloned: RestAgent, service: Service, bare: Path) -> None:
    """As if something had got past the file operations: hooks and configuration by every known way to a program."""
    tree = await tree_of(service, cloned)
    owner = (tree / ".git").stat()
    # Another place for a configuration, by a file that leads there.
    elsewhere = tree / "elsewhere"
    elsewhere.mkdir()
    os.chown(elsewhere, owner.st_uid, owner.st_gid)
    for part in ("objects", "refs"):
        (elsewhere / part).symlink_to(f"../.git/{part}")
    traces = tree.parent / "traces"
    traces.mkdir()
    traces.chmod(0o777)

    def trace(name: str) -> str:
        return f"touch {shlex.quote(str(traces / name))}"

    for hook in ("pre-commit", "commit-msg", "post-commit", "post-checkout", "pre-push", "post-merge",
                 "post-index-change", "reference-transaction", "prepare-commit-msg", "fsmonitor-watchman"):  # fmt: skip
        path = tree / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{trace(hook)}\n")
        path.chmod(0o755)
    config = tree / ".git" / "config"
    planted = f"""
[core]
\tfsmonitor = "{trace("fsmonitor")}"
\thooksPath = .git/hooks
\tpager = "{trace("pager")}"
\teditor = "{trace("editor")}"
\tsshCommand = "{trace("ssh")}"
\tattributesFile = /dev/null
[diff "x"]
\ttextconv = "{trace("textconv")}"
\tcommand = "{trace("command")}"
[filter "x"]
\tclean = "{trace("clean")}; cat"
\tsmudge = "{trace("smudge")}; cat"
[gpg]
\tprogram = "{trace("gpg")}"
[commit]
\tgpgsign = true
[diff]
\texternal = "{trace("external")}"
[credential]
\thelper = "!{trace("credential")}"
[url "ext::sh -c {shlex.quote(trace("ext"))}"]
\tinsteadOf = {bare}
[remote "origin"]
\tuploadpack = "{trace("uploadpack")}"
\treceivepack = "{trace("receivepack")}"
"""
    (tree / ".git" / "info").mkdir(exist_ok=True)
    (tree / ".git" / "info" / "attributes").write_text("* diff=x filter=x\n")
    (tree / ".gitattributes").write_text("* diff=x filter=x\n")
    os.chown(tree / ".gitattributes", owner.st_uid, owner.st_gid)

    calls: list[tuple[str, dict[str, object]]] = [
        ("git.status", {}), ("git.diff", {}), ("file.write", {"path": "README.md", "content": "changed\n"}),
        ("git.diff", {}), ("git.add", {"files": ["."]}), ("git.diff", {"staged": True}),
        ("git.commit", {"message": "m"}), ("git.log", {}), ("git.show", {"revision": "HEAD"}),
        ("git.create_branch", {"name": "b"}), ("git.checkout", {"branch": "main"}), ("git.push", {}),
        ("git.pull", {}), ("git.branch", {}), ("git.reset", {"mode": "hard"}),
    ]  # fmt: skip
    for operation, arguments in calls:
        # Between calls nothing of ours is at work there, so what runs next must clean up first.
        await has_been_surveyed(service)
        for path, content in (
            (config, planted),
            (elsewhere / "config", planted),
            (tree / ".git" / "config.worktree", planted),
            (tree / ".git" / "commondir", "../elsewhere\n"),
        ):
            path.write_text(content)
            os.chown(path, owner.st_uid, owner.st_gid)
        answer = await cloned.call(operation, **arguments)
        assert not answer.is_error, (operation, answer.content)
        assert not list(traces.iterdir()), operation
    assert git("log", "-1", "--format=%s", "main", cwd=bare) == "m"
    assert "fsmonitor" not in config.read_text()


async def test_attributes_modules_and_inner_repositories_of_a_clone_do_nothing(rest: RestAgent, tmp_path: Path) -> None:
    bare_repository(tmp_path)
    work = tmp_path / "project-work"
    (work / ".gitattributes").write_text("* filter=lfs diff=x merge=x\n")
    (work / ".gitmodules").write_text('[submodule "m"]\n\tpath = m\n\turl = ext::sh -c false\n')
    # A bare repository in the tree, which git would use when asked from inside it.
    inner = work / "inner"
    git("init", "--quiet", "--bare", str(inner))
    (inner / "objects" / "keep").write_text("")
    (inner / "refs" / "keep").write_text("")
    commit = git("rev-parse", "HEAD", cwd=work)
    git("update-index", "--add", "--cacheinfo", f"160000,{commit},m", cwd=work)
    assert not (await rest.call("git.clone", url=str(publish(work, tmp_path / "odd.git")))).is_error
    assert (await rest.call("git.status")).content["untracked"] == []
    assert not (await rest.call("git.diff")).is_error
    assert not (await rest.call("git.pull")).is_error


async def test_a_repository_with_a_file_below_dot_git_is_not_checked_out(rest: RestAgent, tmp_path: Path) -> None:
    bare = bare_repository(tmp_path)
    blob = git("rev-parse", "main:README.md", cwd=bare)
    for name in (".git", ".GIT", "git~1", ".g\u200cit"):
        tree = _tree(bare, f"40000 {name}", _tree(bare, "100644 config", blob))
        commit = git("commit-tree", tree, "-m", "planted", cwd=bare)
        git("update-ref", "refs/heads/main", commit, cwd=bare)
        answer = await rest.call("git.clone", url=str(bare))
        assert answer.code == "git_failed", name
        assert (await rest.call("git.status")).code == "unknown_workspace"


def _tree(bare: Path, entry: str, oid: str) -> str:
    content = entry.encode() + b"\0" + bytes.fromhex(oid)
    done = subprocess.run(
        ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"],
        cwd=bare, input=content, check=True, capture_output=True,
    )  # fmt: skip
    return done.stdout.decode().strip()


async def test_a_log_of_endless_subjects_is_cut_between_commits_and_says_so(rest: RestAgent, bare: Path) -> None:
    tree, head = git("rev-parse", "main^{tree}", cwd=bare), git("rev-parse", "main", cwd=bare)
    for number in range(12):
        head = git("commit-tree", tree, "-p", head, "-m", f"{number} " + "ü" * 50_000, cwd=bare)
    git("update-ref", "refs/heads/main", head, cwd=bare)
    await rest.call("git.clone", url=str(bare))
    log = (await rest.call("git.log")).content
    assert log["truncated"] is True
    assert [commit["subject"].split()[0] for commit in log["commits"]] == [str(number) for number in range(11, 1, -1)]
    assert {len(commit["subject"].split()[1]) for commit in log["commits"]} == {50_000}
    assert "truncated" not in (await rest.call("git.log", max_count=3)).content


# --- remotes and arguments ------------------------------------------------------------------------------------------


REFUSED_REMOTES = [
    "ext::sh -c touch% /tmp/x",
    "fd::0",
    "file:///etc",
    "/etc",
    "/",
    "relative/path",
    "../project.git",
    "git@github.com:a/b.git",
    "ssh://github.com/a/b",
    "git://127.0.0.1/a",
    "ftp://127.0.0.1/a",
    "http://127.0.0.1/a.git",
    "http://localhost:1/a.git",
    "http://[::1]/a.git",
    "http://[::ffff:127.0.0.1]/a.git",
    "http://2130706433/a.git",
    "http://0x7f.1/a.git",
    "http://0/a.git",
    "http://10.0.0.1/a.git",
    "http://169.254.169.254/latest",
    "http://[fe80::1]/a.git",
    "http://[64:ff9b::7f00:1]/a.git",
    "http://[2002:7f00:1::]/a.git",
    "http://user:password@127.0.0.1/a.git",
    "http:///a.git",
    "http://127.0.0.1:99999/a.git",
    "http://127.0.0.1/a b.git",
    "http://127.0.0.1/a\n.git",
]


async def test_remotes_that_may_not_be_used_are_refused(rest: RestAgent) -> None:
    for url in REFUSED_REMOTES:
        answer = await rest.call("git.clone", url=url)
        assert answer.code == "remote_refused", url
        assert "password" not in str(answer.content)


async def test_a_link_out_of_the_allowed_directories_is_refused(rest: RestAgent, tmp_path: Path) -> None:
    link = tmp_path / "etc"
    link.symlink_to("/etc")
    assert (await rest.call("git.clone", url=str(link))).code == "remote_refused"
    assert (await rest.call("git.clone", url=str(tmp_path / "x" / ".." / ".." / ".." / ".."))).code == "remote_refused"


ODD_ARGUMENTS: list[tuple[str, dict[str, object]]] = [
    ("git.clone", {"url": "--upload-pack=touch /tmp/x"}),
    ("git.clone", {"url": "/a", "branch": "--upload-pack=x"}),
    ("git.clone", {"url": "/a", "depth": 0}),
    ("git.clone", {"url": "/a", "depth": "1"}),
    ("git.clone", {"url": "/a", "token": "a b"}),
    ("git.clone", {}),
    ("git.pull", {"remote": "--upload-pack=x"}),
    ("git.pull", {"remote": "ext::sh -c x"}),
    ("git.push", {"remote": "-x"}),
    ("git.push", {"branch": "+main:other"}),
    ("git.push", {"branch": "a b"}),
    ("git.add", {"files": ["--all"]}),
    ("git.add", {"files": []}),
    ("git.add", {"files": "README.md"}),
    ("git.commit", {"message": ""}),
    ("git.commit", {"message": "a\0b"}),
    ("git.commit", {"message": "m", "author_name": "A <b>"}),
    ("git.commit", {"message": "m", "author_email": "a\nb"}),
    ("git.reset", {"mode": "keep"}),
    ("git.checkout", {"branch": "-f"}),
    ("git.checkout", {"branch": "a..b"}),
    ("git.create_branch", {"name": "-d"}),
    ("git.create_branch", {"name": "x", "base": "--orphan"}),
    ("git.create_branch", {"name": "x.lock"}),
    ("git.diff", {"context_lines": -1}),
    ("git.diff", {"staged": 1}),
    ("git.log", {"max_count": 0}),
    ("git.log", {"max_count": 10**9}),
    ("git.log", {"max_count": True}),
    ("git.show", {"revision": "--output=/tmp/x"}),
    ("git.show", {"revision": "a..b"}),
    ("file.write", {"path": "-x", "content": ""}),
    ("file.write", {"path": "x", "content": None}),
    ("file.write", {"path": "x", "content": "", "mode": 0o755}),
    ("git.status", {"surprise": 1}),
]


async def test_odd_arguments_are_refused(cloned: RestAgent) -> None:
    for operation, arguments in ODD_ARGUMENTS:
        assert (await cloned.call(operation, **arguments)).code == "invalid_argument", (operation, arguments)


# --- workspaces ----------------------------------------------------------------------------------------------------


async def test_a_workspace_is_named_by_headers_or_arguments_and_only_once(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url) as client:
        bare = RestAgent(client)
        assert (await bare.call("git.status")).code == "workspace_required"
        assert (await bare.call("git.status", agent_id="a")).code == "workspace_required"
        assert (await bare.call("git.status", agent_id="a", task_id="b/c")).code == "invalid_argument"
        assert (await bare.call("git.status", agent_id="a" * 129, task_id="b")).code == "invalid_argument"
        assert (await bare.call("git.status", agent_id=7, task_id="b")).code == "invalid_argument"
        assert (await bare.call("git.status", agent_id="a", task_id="b")).code == "unknown_workspace"
    for surface in ("rest", "mcp"):
        async with agent_on(surface, service.url, Workspace("a", "b")) as agent:
            assert (await agent.call("git.status", agent_id="a", task_id="b")).code == "unknown_workspace"
            assert (await agent.call("git.status", task_id="c")).code == "workspace_mismatch"


@pytest.mark.parametrize("path", ["/v1/git/status", "/mcp"])
async def test_a_workspace_that_is_named_twice_over_is_none(
    service: Service, cloned: RestAgent, workspace: Workspace, path: str
) -> None:
    """Whoever takes the first name and whoever takes the last would not mean the same one."""
    call = {"name": "git_status", "arguments": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call} if path == "/mcp" else {}
    fields = [*workspace.headers.items(), ("X-Agent-Id", "another"), ("Accept", "application/json, text/event-stream")]
    async with httpx.AsyncClient(base_url=service.url) as client:
        response = await client.post(path, json=body, headers=fields)
    assert "invalid_argument" in response.text


async def test_workspaces_do_not_meet(service: Service, cloned: RestAgent, workspace: Workspace) -> None:
    async with agent_on("rest", service.url, Workspace(workspace.agent, "task-2")) as other:
        assert (await other.call("git.status")).code == "unknown_workspace"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each sandbox a user of its own")
async def test_as_root_each_sandbox_has_a_user_who_cannot_read_another_one(
    service: Service, cloned: RestAgent, workspace: Workspace, bare: Path
) -> None:
    if service.provider != "local":
        pytest.skip("a cloud separates sandboxes by machines, not by users of one")
    async with agent_on("rest", service.url, Workspace(workspace.agent, "task-2")) as other:
        await other.call("git.clone", url=str(bare))
        assert isinstance(other, RestAgent)
        theirs = await tree_of(service, other)
    mine = await tree_of(service, cloned)
    users = {path.stat().st_uid for path in (mine, theirs)}
    assert len(users) == 2
    assert 0 not in users
    uid = mine.stat().st_uid
    for path, is_readable in ((mine / "README.md", True), (theirs / "README.md", False)):
        assert _can_read(uid, path) is is_readable
    await cloned.call("file.write", path="new.txt", content="x")
    await cloned.call("git.add", files=["."])
    await cloned.call("git.commit", message="m")
    assert {path.lstat().st_uid for path in mine.rglob("*")} == {uid}


def _can_read(uid: int, path: Path) -> bool:
    done = subprocess.run(["cat", str(path)], user=uid, group=uid, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0


# --- who may say more than a client ---------------------------------------------------------------------------------

AUTH = {"Crossfade-Auth": TOKEN}


async def test_the_inventory_is_closed_without_the_internal_token(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url) as client:
        for path, found in (
            ("/v1/workspaces", 200),
            ("/v1/workspaces/digest", 200),
            ("/metrics", 200),
            ("/v1/workspaces/no/body", 404),
            ("/v1/workspaces/no/body/export", 404),
            ("/v1/workspaces/nothing", 404),
        ):
            assert (await client.get(path)).status_code == 403
            assert (await client.get(path, headers={"Crossfade-Auth": "wrong"})).status_code == 403
            assert (await client.get(path, headers=AUTH)).status_code == found
        assert (await client.put("/v1/workspaces/no/body/import", content=b"")).status_code == 403


@pytest.mark.parametrize("surface", ["rest", "mcp"])
async def test_a_mirrored_write_is_refused_and_a_mirrored_read_is_not(
    service: Service, cloned: RestAgent, workspace: Workspace, surface: str
) -> None:
    mirror = {"Crossfade-Copy": "mirror"}
    async with agent_on(surface, service.url, Workspace(workspace.agent, more={**mirror, **AUTH})) as copies:
        assert (await copies.call("file.write", path="a", content="")).code == "copy_refused"
        assert not (await copies.call("git.status")).is_error
    async with agent_on(surface, service.url, Workspace(workspace.agent, more=mirror)) as client:
        assert not (await client.call("file.write", path="a", content="")).is_error


async def test_the_time_of_a_request_dates_the_commit_for_who_may_say_so(
    service: Service, cloned: RestAgent, workspace: Workspace
) -> None:
    at = {"Crossfade-Request-Time": "2026-01-02T03:04:05.678Z"}
    for more, is_dated in (({**at, **AUTH}, True), (at, False), ({**at, "Crossfade-Auth": "wrong"}, False)):
        async with agent_on("rest", service.url, Workspace(workspace.agent, more=more)) as agent:
            await agent.call("file.write", path="a", content=str(more))
            await agent.call("git.add", files=["a"])
            await agent.call("git.commit", message="m")
            newest = (await agent.call("git.log", max_count=1)).content["commits"][0]
            assert (newest["date"] == "2026-01-02T03:04:05+00:00") is is_dated
    wrong = {"Crossfade-Request-Time": "x", **AUTH}
    async with agent_on("rest", service.url, Workspace(workspace.agent, more=wrong)) as agent:
        assert (await agent.call("git.status")).code == "invalid_argument"


async def test_both_services_make_the_same_commit_of_the_same_request(
    services: dict[str, Service], workspace: Workspace, bare: Path
) -> None:
    more = {"Crossfade-Request-Time": "2026-01-02T03:04:05.678Z", **AUTH}
    heads = []
    for service, surface in zip(services.values(), ("rest", "mcp-legacy"), strict=True):
        async with agent_on(surface, service.url, Workspace(workspace.agent, more=more)) as agent:
            await agent.call("git.clone", url=str(bare))
            await agent.call("file.write", path="a", content="x\r\n")
            await agent.call("git.add", files=["a"])
            heads.append((await agent.call("git.commit", message="m \n\n\nü\n# stripped")).content["head"])
    assert heads[0] == heads[1]
    assert len(heads[0]) == 40
