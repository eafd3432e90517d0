"""What the operations answer, as models: MCP clients get their schemas and check every answer against them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """What every result is: exactly the members of the contract."""

    model_config = ConfigDict(extra="forbid")


class Head(Result):
    """Where the workspace stands. `branch` is null when none is checked out, `head` before the first commit."""

    branch: str | None
    head: str | None


class Pulled(Head):
    """Result of `git.pull`."""

    updated: bool


class Pushed(Result):
    """Result of `git.push`."""

    remote: str
    branch: str
    head: str
    pushed: bool


class Added(Result):
    """Result of `git.add`: all that is staged now."""

    staged: list[str]


class WasReset(Head):
    """Result of `git.reset`."""

    mode: Literal["soft", "mixed", "hard"]


class Status(Head):
    """Result of `git.status`; sorted paths."""

    clean: bool
    staged: list[str]
    unstaged: list[str]
    untracked: list[str]


class Branch(Result):
    """A local branch."""

    name: str
    head: str


class Branches(Result):
    """Result of `git.branch`."""

    current: str | None
    branches: list[Branch]


class Diff(Result):
    """Result of `git.diff`."""

    diff: str
    truncated: bool


class Commit(Result):
    """A commit; `date` is the author's, RFC 3339."""

    sha: str
    author_name: str
    author_email: str
    date: str
    subject: str


class Commits(Result):
    """Result of `git.log`; `truncated` is there only when commits were left out for their length."""

    commits: list[Commit]
    truncated: Literal[True] = True


class ShownCommit(Commit):
    """Result of `git.show`."""

    diff: str
    truncated: bool


class Written(Result):
    """Result of `file.write`."""

    path: str
    size: int
    sha256: str


class Deleted(Result):
    """Result of `file.delete`."""

    path: str


class ReadFile(Result):
    """Result of `file.read`; `size` is that of the whole file."""

    path: str
    content: str
    encoding: Literal["utf-8", "base64"]
    size: int
    truncated: bool


class Entry(Result):
    """Something in a directory; only files have a size."""

    path: str
    type: Literal["file", "dir", "symlink"]
    size: int | None


class Listing(Result):
    """Result of `file.list`."""

    entries: list[Entry]
