"""The inventory on both services, and workspaces that are carried from one to the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.backends.test_contract import ok
from tests.support.services import SERVICES, TOKEN, Agent, RestAgent, Service, Workspace, agent_on, git, tree_of

AUTH = {"Crossfade-Auth": TOKEN}


@pytest.fixture
async def inventory(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, headers=AUTH, timeout=60) as client:
        yield client


@pytest.fixture
def path(workspace: Workspace) -> str:
    return f"/v1/workspaces/{workspace.agent}/{workspace.task}"


async def record(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["etag"] == f'"{found["version"]}"'
    return found


async def other_side(services: dict[str, Service], service: Service) -> Service:
    return next(other for other in services.values() if other is not service)


@pytest.fixture
async def other(services: dict[str, Service], service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """The inventory of the other service."""
    place = await other_side(services, service)
    async with httpx.AsyncClient(base_url=place.url, headers=AUTH, timeout=60) as client:
        yield client


async def carry(
    source: httpx.AsyncClient, target: httpx.AsyncClient, path: str, have: str = "", **headers: str
) -> httpx.Response:
    bundle = await source.get(f"{path}/export", params={"have": have} if have else {})
    assert bundle.status_code == 200, bundle.text
    carried = {"Crossfade-Workspace": bundle.headers["crossfade-workspace"], **headers}
    return await target.put(f"{path}/import", content=bundle.content, headers=carried)


@pytest.mark.everywhere
@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_a_record_follows_every_write(
    cloned: Agent, inventory: httpx.AsyncClient, path: str, bare: Path, workspace: Workspace
) -> None:
    first = await record(inventory, path)
    assert first["id"] == f"{workspace.agent}/{workspace.task}"
    assert (first["branch"], first["head"]) == ("main", git("rev-parse", "main", cwd=bare))
    assert first["repository"] == str(bare)
    seen = {first["digest"]}
    for operation, arguments in (
        ("file.write", {"path": "untracked", "content": "1"}),
        ("file.write", {"path": "untracked", "content": "2"}),
        ("file.write", {"path": "README.md", "content": "changed"}),
        ("git.add", {"files": ["README.md"]}),
        ("file.delete", {"path": "run.sh"}),
    ):
        before = await record(inventory, path)
        await ok(cloned, operation, **arguments)
        after = await record(inventory, path)
        assert after["version"] > before["version"]
        assert after["updated_at"] >= before["updated_at"]
        assert after["digest"] not in seen
        seen.add(after["digest"])
    await ok(cloned, "git.status")
    assert (await record(inventory, path))["version"] == after["version"]


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_the_same_content_has_the_same_digest_on_both_sides(
    cloned: Agent, inventory: httpx.AsyncClient, other: httpx.AsyncClient, path: str, bare: Path, workspace: Workspace
) -> None:
    async with agent_on("rest", str(other.base_url), workspace) as twin:
        await ok(twin, "git.clone", url=str(bare))
        for side in (cloned, twin):
            await ok(side, "file.write", path="src/new.txt", content="same")
        assert (await record(inventory, path))["digest"] == (await record(other, path))["digest"]
        prefix = (await record(other, path))["hash"][:20]
        ranges = [
            (await client.get("/v1/workspaces/digest", params={"prefix": prefix})).json()
            for client in (inventory, other)
        ]
        assert ranges[0] == ranges[1]
        assert ranges[0]["count"] == 1
        await ok(twin, "file.write", path="src/new.txt", content="not the same")
        changed = (await other.get("/v1/workspaces/digest", params={"prefix": prefix})).json()
        assert changed["digest"] != ranges[0]["digest"]
        whole = (await other.get("/v1/workspaces/digest")).json()
        assert whole["count"] == sum(child["count"] for child in whole["children"])


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_pages_are_followed_by_their_cursor(cloned: Agent, inventory: httpx.AsyncClient, path: str) -> None:
    del cloned
    mine = await record(inventory, path)
    found: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await inventory.get("/v1/workspaces", params=params)).json()
        found += [row["id"] for row in page["workspaces"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(found) == len(set(found))
    assert mine["id"] in found
    since = (await inventory.get("/v1/workspaces", params={"updated_since": mine["updated_at"]})).json()
    assert mine["id"] in [row["id"] for row in since["workspaces"]]
    later = (await inventory.get("/v1/workspaces", params={"updated_since": "2999-01-01T00:00:00Z"})).json()
    assert later == {"workspaces": [], "next_cursor": None}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "limit=%C2%B2",
        "cursor=zz",
        "prefix=ABC",
        "updated_since=now",
        "updated_since=2026-01-01",
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(inventory: httpx.AsyncClient, query: str) -> None:
    answer = await inventory.get(f"/v1/workspaces?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def make_odd(agent: Agent) -> None:
    """Everything that a workspace may hold besides commits."""
    await ok(agent, "file.write", path="staged", content="1")
    await ok(agent, "git.add", files=["staged"])
    await ok(agent, "file.write", path="staged", content="changed again")
    await ok(agent, "file.write", path="untracked/é ü.txt", content="2")
    await ok(agent, "file.delete", path="README.md")


@pytest.mark.everywhere
@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_a_workspace_is_carried_with_all_that_is_not_committed(
    cloned: Agent,
    inventory: httpx.AsyncClient,
    other: httpx.AsyncClient,
    path: str,
    workspace: Workspace,
    bare: Path,
) -> None:
    await ok(cloned, "git.create_branch", name="topic")
    await make_odd(cloned)
    before = await ok(cloned, "git.status")
    answer = await carry(inventory, other, path, **{"If-None-Match": "*"})
    assert answer.status_code == 200, answer.text
    mine, theirs = await record(inventory, path), await record(other, path)
    agreed = ("id", "repository", "branch", "head", "digest")
    assert {name: mine[name] for name in agreed} == {name: theirs[name] for name in agreed}
    async with agent_on("rest", str(other.base_url), workspace) as twin:
        assert await ok(twin, "git.status") == before
        assert (await ok(twin, "git.branch"))["branches"] == (await ok(cloned, "git.branch"))["branches"]
        # It works on as any clone does.
        await ok(twin, "git.add", files=["."])
        await ok(twin, "git.commit", message="there")
        assert (await ok(twin, "git.push"))["pushed"]
        await ok(twin, "git.checkout", branch="main")
        assert not (await ok(twin, "git.pull"))["updated"]
    assert "topic" in git("branch", cwd=bare)
    # And what is carried leaves nothing behind where it came from.
    assert await ok(cloned, "git.status") == before


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_what_the_other_side_has_need_not_be_carried_again(
    cloned: Agent, inventory: httpx.AsyncClient, other: httpx.AsyncClient, path: str, workspace: Workspace
) -> None:
    head = (await ok(cloned, "git.status"))["head"]
    assert (await carry(inventory, other, path)).status_code == 200
    await make_odd(cloned)
    await ok(cloned, "git.commit", message="more")
    unknown = await inventory.get(f"{path}/export", params={"have": "1" * 40})
    assert unknown.json()["code"] == "not_found"
    answer = await carry(inventory, other, path, have=head)
    assert answer.status_code == 200, answer.text
    async with agent_on("rest", str(other.base_url), workspace) as twin:
        assert await ok(twin, "git.status") == await ok(cloned, "git.status")
        assert await ok(twin, "git.log") == await ok(cloned, "git.log")


async def refs_of(service: Service, agent: Agent) -> list[str]:
    """Every ref of a workspace, symbolic ones by what they point to."""
    tree = await tree_of(service, agent)
    shown = git("-c", "safe.directory=*", "for-each-ref", "--format=%(refname) %(objectname) %(symref)", cwd=tree)
    return shown.splitlines()


def add_refs(bare: Path) -> None:
    """A branch and tags, one of them annotated, one of a file."""
    git("branch", "topic", "main", cwd=bare)
    git("tag", "light", "main", cwd=bare)
    git("tag", "--annotate", "--message=first", "v1", "main", cwd=bare)
    git("tag", "file", "main:README.md", cwd=bare)


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_every_ref_is_carried_whatever_the_other_side_has(
    agent: RestAgent,
    services: dict[str, Service],
    service: Service,
    inventory: httpx.AsyncClient,
    other: httpx.AsyncClient,
    path: str,
    workspace: Workspace,
    bare: Path,
) -> None:
    add_refs(bare)
    await ok(agent, "git.clone", url=str(bare))
    await ok(agent, "git.create_branch", name="side")
    await ok(agent, "git.checkout", branch="main")
    there = await other_side(services, service)
    async with agent_on("rest", there.url, workspace) as twin:

        async def is_carried(have: str = "") -> None:
            answer = await carry(inventory, other, path, have=have)
            assert answer.status_code == 200, answer.text
            assert await refs_of(there, twin) == await refs_of(service, agent)
            assert await ok(twin, "git.status") == await ok(agent, "git.status")
            assert await ok(twin, "git.branch") == await ok(agent, "git.branch")

        await is_carried()
        head = (await ok(agent, "git.status"))["head"]
        # Nothing but uncommitted changes to carry.
        await make_odd(agent)
        await is_carried(have=head)
        await ok(agent, "git.commit", message="more")
        # Branches and tags that stand at what the other side has.
        await is_carried(have=head)
        await ok(agent, "git.reset", mode="hard")
        await ok(agent, "git.checkout", branch="side")
        await is_carried(have=head)
        assert (await ok(twin, "git.show", revision="v1"))["sha"] == head


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_a_bundle_without_one_of_its_refs_is_told_from_a_whole_one(
    cloned: Agent, inventory: httpx.AsyncClient, other: httpx.AsyncClient, path: str
) -> None:
    await ok(cloned, "git.create_branch", name="side")
    bundle = await inventory.get(f"{path}/export")
    fields = {"Crossfade-Workspace": bundle.headers["crossfade-workspace"]}
    line = next(line for line in bundle.content.split(b"\n") if line.endswith(b" refs/remotes/origin/main"))
    short = bundle.content.replace(line + b"\n", b"", 1)
    answer = await other.put(f"{path}/import", content=short, headers=fields)
    assert answer.json()["code"] == "diverged"
    assert (await other.put(f"{path}/import", content=bundle.content, headers=fields)).status_code == 200


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_an_import_replaces_only_the_version_that_was_meant(
    cloned: Agent, inventory: httpx.AsyncClient, other: httpx.AsyncClient, path: str
) -> None:
    assert (await carry(inventory, other, path, **{"If-Match": '"3"'})).json()["code"] == "conflict"
    assert (await carry(inventory, other, path, **{"If-None-Match": "*"})).status_code == 200
    assert (await carry(inventory, other, path, **{"If-None-Match": "*"})).json()["code"] == "conflict"
    version = (await record(other, path))["version"]
    assert (await carry(inventory, other, path, **{"If-Match": f'"{version}"'})).status_code == 200
    assert (await carry(inventory, other, path, **{"If-Match": f'"{version}"'})).json()["code"] == "conflict"
    assert (await carry(inventory, other, path, **{"If-Match": "x"})).json()["code"] == "invalid_argument"


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_a_bundle_that_is_not_what_it_says_changes_nothing(
    cloned: Agent, inventory: httpx.AsyncClient, other: httpx.AsyncClient, path: str, workspace: Workspace, bare: Path
) -> None:
    bundle = await inventory.get(f"{path}/export")
    manifest = json.loads(bundle.headers["crossfade-workspace"])

    async def put(content: bytes, **changes: Any) -> str:
        header = json.dumps({**manifest, **changes})
        answer = await other.put(f"{path}/import", content=content, headers={"Crossfade-Workspace": header})
        assert answer.status_code != 200
        return str(answer.json()["code"])

    assert await put(bundle.content, digest="0" * 64) == "diverged"
    assert await put(bundle.content, branch="nope") in ("diverged", "invalid_argument")
    assert await put(bundle.content, branch="--upload-pack=x") == "invalid_argument"
    assert await put(bundle.content, head="HEAD") == "invalid_argument"
    assert await put(bundle.content, repository="file:///etc") == "remote_refused"
    assert await put(bundle.content, repository="ext::sh -c id") == "remote_refused"
    assert await put(bundle.content[:-30]) == "invalid_argument"
    assert await put(b"") == "invalid_argument"
    assert await put(b"# v2 git bundle\n") == "invalid_argument"
    answer = await other.put(f"{path}/import", content=bundle.content)
    assert answer.json()["code"] == "invalid_argument"
    assert (await other.get(path)).status_code == 404
    async with agent_on("rest", str(other.base_url), workspace) as twin:
        assert (await twin.call("git.status")).code == "unknown_workspace"
        await ok(twin, "git.clone", url=str(bare))
        await ok(twin, "file.write", path="mine", content="1")
        assert await put(bundle.content, digest="0" * 64) == "diverged"
        assert (await ok(twin, "file.read", path="mine"))["content"] == "1"


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_what_the_service_does_is_counted(cloned: Agent, inventory: httpx.AsyncClient) -> None:
    assert (await cloned.call("git.commit", message="x")).is_error
    text = (await inventory.get("/metrics")).text
    samples = {
        (
            sample.name,
            *(sample.labels.get(label) for label in ("operation", "code") if label in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["crossfade_service_operations_total", "git.clone", "ok"] >= 1
    assert samples["crossfade_service_operations_total", "git.commit", "nothing_to_commit"] >= 1
    assert samples["crossfade_service_operation_seconds_count", "git.clone"] >= 1
    assert samples[("crossfade_service_command_seconds_count",)] >= 2


@pytest.mark.parametrize("name", SERVICES)
async def test_what_is_not_there_cannot_be_exported(services: dict[str, Service], name: str) -> None:
    async with httpx.AsyncClient(base_url=services[name].url, headers=AUTH) as client:
        assert (await client.get("/v1/workspaces/no/body/export")).json()["code"] == "unknown_workspace"
        assert (await client.get("/v1/workspaces/no%20body/x/export")).json()["code"] == "invalid_argument"


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_an_empty_repository_and_a_detached_head_can_be_carried(
    agent: RestAgent,
    inventory: httpx.AsyncClient,
    other: httpx.AsyncClient,
    path: str,
    workspace: Workspace,
    tmp_path: Path,
) -> None:
    empty = tmp_path / "empty.git"
    git("init", "--quiet", "--bare", "--initial-branch=trunk", str(empty))
    await ok(agent, "git.clone", url=str(empty))
    await ok(agent, "file.write", path="first", content="1")
    assert (await carry(inventory, other, path)).status_code == 200
    async with agent_on("rest", str(other.base_url), workspace) as twin:
        assert await ok(twin, "git.status") == await ok(agent, "git.status")


@pytest.mark.parametrize("agent", ["rest"], indirect=True)
async def test_a_shallow_clone_is_carried_or_refused_and_never_damaged(
    agent: RestAgent,
    inventory: httpx.AsyncClient,
    other: httpx.AsyncClient,
    path: str,
    workspace: Workspace,
    bare: Path,
    tmp_path: Path,
) -> None:
    work = tmp_path / "more"
    git("clone", "--quiet", str(bare), str(work))
    (work / "second").write_text("2")
    git("add", "--all", cwd=work)
    git("commit", "--quiet", "--message=second", cwd=work)
    git("push", "--quiet", cwd=work)
    await ok(agent, "git.clone", url=str(bare), depth=1)
    answer = await carry(inventory, other, path)
    assert answer.status_code == 200, answer.text
    async with agent_on("rest", str(other.base_url), workspace) as twin:
        assert await ok(twin, "git.log") == await ok(agent, "git.log")
        assert await ok(twin, "git.status") == await ok(agent, "git.status")
