"""The repository that the agents work on: a bare one on this machine, with a real history."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import gateway
from gateway.errors import CrossfadeError

_PROJECT: Final = Path(gateway.__file__).resolve().parents[1]
_CLONE_S: Final = 300.0


class DemoError(CrossfadeError):
    """The demo cannot go on."""


def make_repository(directory: Path, url: str | None) -> Path:
    """Makes the bare repository.

    Args:
        directory: Where; nobody else's.
        url: Whose history it gets; None = this project's own, or a small one where that is not at hand.

    Raises:
        DemoError: Git says no.
    """
    bare = directory / "demo.git"
    source = url or (str(_PROJECT) if (_PROJECT / ".git").exists() else None)
    if source is not None and _cloned(source, bare):
        pass
    elif url is not None:
        raise DemoError(f"{url} cannot be cloned")
    else:
        _seed(directory, bare)
    git("-C", str(bare), "config", "receive.denyNonFastForwards", "true")
    return bare


def head_branch(bare: Path) -> str:
    """The branch that a clone checks out."""
    return git("-C", str(bare), "symbolic-ref", "--short", "HEAD")


def holds(bare: Path, branch: str, commit: str) -> bool:
    """Whether a branch of the repository holds a commit."""
    return _run("-C", str(bare), "merge-base", "--is-ancestor", commit, f"refs/heads/{branch}").returncode == 0


def git(*arguments: str) -> str:
    """Runs git; returns what it printed.

    Raises:
        DemoError: It failed.
    """
    done = _run(*arguments)
    if done.returncode:
        raise DemoError(f"git {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _cloned(source: str, bare: Path) -> bool:
    done = _run("clone", "--quiet", "--bare", "--no-local", "--no-tags", "--", source, str(bare))
    if done.returncode == 0 and _run("-C", str(bare), "rev-parse", "--verify", "HEAD").returncode:
        # A checkout without a branch has no HEAD to clone: any commit of it will do.
        return False
    return done.returncode == 0


def _seed(directory: Path, bare: Path) -> None:
    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    work = directory / "seed"
    git("clone", "--quiet", str(bare), str(work))
    (work / "README.md").write_text("A repository for the demo of Crossfade.\n")
    identity = ("-c", "user.name=Crossfade Demo", "-c", "user.email=demo@crossfade.invalid")
    git("-C", str(work), "add", ".")
    git("-C", str(work), *identity, "commit", "--quiet", "--message=First")
    git("-C", str(work), "push", "--quiet", "origin", "HEAD:main")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        # The checkout may belong to the user who unpacked it.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    return subprocess.run(  # noqa: S603 - git, with arguments of our own making
        ["git", *arguments],  # noqa: S607 - whichever git the user has
        env=env,
        capture_output=True,
        text=True,
        timeout=_CLONE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
