"""The operations: names, classes, arguments, results. REST routes and MCP tools are both made from this table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backends.common import results

_BRANCH_BAD: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|/\.|[/.]$|\.lock(/|$)|^@$")
"""What git-check-ref-format(1) forbids, and a leading hyphen."""
_REVISION: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_./@{}^~+-]*")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds NUL")
    return text


def _not_option(text: str) -> str:
    if text.startswith("-"):
        raise ValueError("starts with a hyphen")
    return text


def _branch(text: str) -> str:
    if _BRANCH_BAD.search(text):
        raise ValueError("is no branch name")
    return text


def _revision(text: str) -> str:
    if not _REVISION.fullmatch(text) or ".." in text:
        raise ValueError("names no revision")
    return text


def _one_line(text: str) -> str:
    if any(ord(character) < 0x20 or character in "<>\x7f" for character in text) or not text.strip():
        raise ValueError("must be one line without < and >")
    return text


Branch = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_branch)]
Revision = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_revision)]
Remote = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Url = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_not_option), AfterValidator(_no_nul)]
Path = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_not_option)]
Token = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$")]
Identity = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_one_line)]


class Arguments(BaseModel):
    """What every operation takes: the workspace, where headers do not name it."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    agent_id: str | None = None
    task_id: str | None = None


class Clone(Arguments):
    """Arguments of `git.clone`."""

    url: Url
    branch: Branch | None = None
    depth: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    token: Token | None = Field(default=None, repr=False)


class Sync(Arguments):
    """Arguments of `git.pull` and `git.push`."""

    remote: Remote | None = None
    branch: Branch | None = None
    token: Token | None = Field(default=None, repr=False)


class Add(Arguments):
    """Arguments of `git.add`."""

    files: Annotated[list[Path], Field(min_length=1, max_length=1000)]


class Commit(Arguments):
    """Arguments of `git.commit`."""

    message: Annotated[str, Field(min_length=1, max_length=65_536), AfterValidator(_no_nul)]
    author_name: Identity | None = None
    author_email: Identity | None = None


class Reset(Arguments):
    """Arguments of `git.reset`."""

    mode: Literal["soft", "mixed", "hard"] = "mixed"


class Checkout(Arguments):
    """Arguments of `git.checkout`."""

    branch: Branch


class CreateBranch(Arguments):
    """Arguments of `git.create_branch`."""

    name: Branch
    base: Revision | None = None


class Nothing(Arguments):
    """Arguments of operations that take none."""


class Diff(Arguments):
    """Arguments of `git.diff`."""

    staged: bool = False
    context_lines: Annotated[int, Field(ge=0, le=1000)] = 3


class Log(Arguments):
    """Arguments of `git.log`."""

    max_count: Annotated[int, Field(ge=1, le=1000)] = 20


class Show(Arguments):
    """Arguments of `git.show`."""

    revision: Revision


class Write(Arguments):
    """Arguments of `file.write`."""

    path: Path
    content: str


class OnePath(Arguments):
    """Arguments of `file.read` and `file.delete`."""

    path: Path


class SomePath(Arguments):
    """Arguments of `file.list`."""

    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the contract.

    Attributes:
        name: Such as `git.status`.
        is_write: Whether it changes the workspace or its remote.
        arguments: Their model.
        result: Model of its answer.
        summary: One line for people and models.
        deadline_s: Longest time it may take.
        is_destructive: Whether it may discard what was not committed.
        is_idempotent: Whether repeating it changes nothing more.
        leaves_sandbox: Whether it talks to a remote.
    """

    name: str
    is_write: bool
    arguments: type[Arguments]
    result: type[results.Result]
    summary: str
    deadline_s: float = 30.0
    is_destructive: bool = False
    is_idempotent: bool = False
    leaves_sandbox: bool = False

    @property
    def route(self) -> str:
        """Its REST path."""
        return "/v1/" + self.name.replace(".", "/")

    @property
    def tool(self) -> str:
        """Its MCP name."""
        return self.name.replace(".", "_")


_REMOTE_S: Final = 240.0

_ROWS: Final = (
    Operation("git.clone", True, Clone, results.Head, "Clones a repository, replacing what the workspace holds.",
              _REMOTE_S, is_destructive=True, leaves_sandbox=True),
    Operation("git.pull", True, Sync, results.Pulled, "Fetches a branch and fast-forwards to it.",
              _REMOTE_S, leaves_sandbox=True),
    Operation("git.push", True, Sync, results.Pushed, "Pushes a branch to a remote.", _REMOTE_S, leaves_sandbox=True),
    Operation("git.add", True, Add, results.Added, "Stages files.", is_idempotent=True),
    Operation("git.commit", True, Commit, results.Head, "Commits what is staged."),
    Operation("git.reset", True, Reset, results.WasReset, "Resets the index, and the files with mode hard.",
              is_destructive=True, is_idempotent=True),
    Operation("git.checkout", True, Checkout, results.Head, "Switches to a branch.", is_idempotent=True),
    Operation("git.create_branch", True, CreateBranch, results.Head, "Creates a branch and switches to it."),
    Operation("git.status", False, Nothing, results.Status, "Says what changed in the workspace.", is_idempotent=True),
    Operation("git.branch", False, Nothing, results.Branches, "Lists local branches.", is_idempotent=True),
    Operation("git.diff", False, Diff, results.Diff, "Shows changes not committed.", is_idempotent=True),
    Operation("git.log", False, Log, results.Commits, "Lists commits, newest first.", is_idempotent=True),
    Operation("git.show", False, Show, results.ShownCommit, "Shows one commit with its changes.", is_idempotent=True),
    Operation("file.write", True, Write, results.Written, "Writes a text file.",
              is_destructive=True, is_idempotent=True),
    Operation("file.delete", True, OnePath, results.Deleted, "Deletes a file.", is_destructive=True),
    Operation("file.read", False, OnePath, results.ReadFile, "Reads a file.", is_idempotent=True),
    Operation("file.list", False, SomePath, results.Listing, "Lists a directory.", is_idempotent=True),
)  # fmt: skip

OPERATIONS: Final[Mapping[str, Operation]] = {row.name: row for row in _ROWS}
"""By name."""
TOOLS: Final[Mapping[str, Operation]] = {row.tool: row for row in _ROWS}
"""By MCP name."""
