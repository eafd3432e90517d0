"""Bundles that were made to reach beyond the files of a workspace, on their way through an import."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.common.carrying import Manifest
from backends.common.errors import Code, ServiceError
from backends.common.inventory import State
from backends.common.local_provider import LocalProvider
from tests.support.services import bare_repository, git, sandbox_home
from tests.support.simple_service import WORKSPACE, Simple, simple_service

Entry = tuple[str, str, str]


@dataclass
class Forge:
    """Makes bundles of trees that git would not make.

    Attributes:
        place: A repository for their objects.
        prey: A directory outside that links lead to.
    """

    place: Path
    prey: Path

    def __post_init__(self) -> None:
        self.prey.mkdir()
        self.prey.chmod(0o777)
        git("init", "--quiet", str(self.place))
        self.blob = self.object("blob", f"#!/bin/sh\ntouch {self.prey}/ran\n".encode())
        self.inside = self.object("blob", b".git/hooks")
        self.outside = self.object("blob", os.fsencode(self.prey))
        self.head = git("commit-tree", self.tree(), "-m", "head", cwd=self.place)
        git("update-ref", "refs/heads/main", self.head, cwd=self.place)

    def object(self, kind: str, content: bytes) -> str:
        done = subprocess.run(
            ["git", "hash-object", "-t", kind, "--literally", "-w", "--stdin"],
            cwd=self.place, input=content, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout.decode().strip()

    def tree(self, *entries: Entry) -> str:
        rows = (f"{mode} {name}\0".encode() + bytes.fromhex(sha) for mode, name, sha in entries)
        return self.object("tree", b"".join(rows))

    def hook(self) -> str:
        return self.tree(("100755", "post-checkout", self.blob))

    def planted(self) -> str:
        return self.tree(("100755", "planted", self.blob))

    def bundle(self, *entries: Entry) -> bytes:
        """A workspace whose index and files are this tree."""
        tree = self.tree(*entries)
        below = git("commit-tree", "-p", self.head, "-m", "index", tree, cwd=self.place)
        state = git("commit-tree", "-p", below, "-m", "files", tree, cwd=self.place)
        git("update-ref", "refs/crossfade/state", state, cwd=self.place)
        file = self.place / "bundle"
        git("bundle", "create", "--quiet", str(file), "refs/crossfade/state", "refs/heads/main", cwd=self.place)
        return file.read_bytes()


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path / "forge", tmp_path / "prey")


def honest(forge: Forge) -> list[Entry]:
    return [("100755", "post-checkout", forge.blob), ("120000", "link", forge.outside)]


HOSTILE: dict[str, Callable[[Forge], list[Entry]]] = {
    ".git": lambda f: [("40000", ".git", f.tree(("40000", "hooks", f.hook())))],
    ".GIT": lambda f: [("40000", ".GIT", f.tree(("100644", "config", f.blob)))],
    "git~1": lambda f: [("40000", "git~1", f.tree(("100644", "config", f.blob)))],
    "..": lambda f: [("40000", "..", f.planted())],
    "a slash in a name": lambda f: [("100755", ".git/hooks/post-checkout", f.blob)],
    "a link into .git and a directory of its name": lambda f: [
        ("120000", "a", f.inside),
        ("40000", "a", f.hook()),
    ],
    "a link outside and a directory of its name": lambda f: [
        ("120000", "b", f.outside),
        ("40000", "b", f.planted()),
    ],
    "a directory and a link of its name": lambda f: [("40000", "c", f.planted()), ("120000", "c", f.outside)],
    "a link and a directory that differ in case": lambda f: [
        ("120000", "D", f.outside),
        ("40000", "d", f.planted()),
    ],
}


@pytest.fixture
async def simple(tmp_path: Path) -> AsyncIterator[Simple]:
    with sandbox_home() as home:
        async with simple_service(LocalProvider(home / "service"), tmp_path / "notes", tmp_path) as simple:
            await simple.ok("git.clone", url=str(bare_repository(tmp_path)))
            await simple.ok("file.write", path="mine", content="precious")
            yield simple


async def taken(simple: Simple, bundle: bytes, forge: Forge) -> Code:
    """How an import is refused; what was there before is there still, and nothing else is."""
    repository = forge.place.with_name("project.git")
    manifest = Manifest(str(repository), State("main", forge.head, "0" * 64), 1)
    with pytest.raises(ServiceError) as caught:
        await simple.service.workspaces.take(WORKSPACE, bundle, manifest, None)
    assert list(forge.prey.iterdir()) == []
    assert (await simple.ok("file.read", path="mine"))["content"] == "precious"
    await simple.ok("git.create_branch", name=f"after-{caught.value.code.value}")
    assert list(forge.prey.iterdir()) == []
    sandbox = await simple.provider.find(WORKSPACE.digest)
    assert sandbox is not None
    [tree] = Path(sandbox.global_config).parent.glob("box/clone-*")
    assert [path for path in (tree / ".git" / "hooks").glob("*") if path.suffix != ".sample"] == []
    return caught.value.code


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_tree_that_reaches_beyond_the_files_plants_nothing(simple: Simple, forge: Forge, case: str) -> None:
    assert await taken(simple, forge.bundle(*HOSTILE[case](forge)), forge) in (Code.INVALID_ARGUMENT, Code.DIVERGED)


async def test_a_tree_of_plain_files_gets_as_far_as_the_digest(simple: Simple, forge: Forge) -> None:
    """So what is refused above is refused for its tree."""
    assert await taken(simple, forge.bundle(*honest(forge)), forge) is Code.DIVERGED


@pytest.mark.parametrize(
    "ref", ["refs/heads/../../hooks/post-checkout", "refs/heads/a/../../../config", "refs/tags/.lock", "refs/heads/-d"]
)
async def test_a_ref_that_reaches_beyond_the_refs_plants_nothing(simple: Simple, forge: Forge, ref: str) -> None:
    bundle = forge.bundle(*honest(forge))
    line = f"{forge.head} refs/heads/main\n".encode()
    assert line in bundle
    hostile = bundle.replace(line, line + f"{forge.head} {ref}\n".encode(), 1)
    assert await taken(simple, hostile, forge) in (Code.INVALID_ARGUMENT, Code.DIVERGED)
