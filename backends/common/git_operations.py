"""What each operation does in a sandbox: calls of git, its output read, its failures named."""

from __future__ import annotations

import base64
import codecs
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from backends.common import contract, metrics
from backends.common.contract import Arguments
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.git_command import How, Identity, Remote, RemoteProgram, Talk, git, without_token
from backends.common.git_status import parse_head, parse_status
from backends.common.remotes import RemoteRules, judge_remote
from backends.common.sandbox import Finished, Sandbox
from backends.common.tree import split_path

OUTPUT_LIMIT_BYTES: Final = 256 * 1024
LIST_OUTPUT_LIMIT_BYTES: Final = 8 << 20
FILE_LIMIT_BYTES: Final = 1 << 20
LISTING_LIMIT: Final = 2 << 20
"""Characters of paths in one answer of `file.list`."""
_LOG_FORMAT: Final = "%H%x00%an%x00%ae%x00%aI%x00%s"
_FIELDS: Final = ("sha", "author_name", "author_email", "date", "subject")
_MESSAGE_LIMIT: Final = 500
_FATAL: Final = 128
"""Exit code of a git that dies of what it was asked."""
_NO_TREE: Final = (b"Unable to read current working directory", b"not a git repository: '.git'")
"""What git says where another instance has put a clone in the place of what it reads."""
_KEPT_OUT: Final = frozenset({Code.WORKSPACE_BUSY, Code.UNKNOWN_WORKSPACE})
"""A command that ends like this did nothing: it did not get into the workspace."""
_CREDENTIALS: Final = re.compile(r"(https?://)[^/@\s]+@")
_PATHS: Final = re.compile(r"file://[^\s'\"]*|(?<=')/[^']*(?=')|(?<![\w.:/-])/[^\s'\":]+")

_PLAIN: Final = How()
_READ: Final = How(is_read=True)

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What is known about a call besides its arguments.

    Attributes:
        at: Time of the request, where whoever sent it may say so; dates the commit.
        key: Its `Idempotency-Key`.
        is_relayed: The other side has done it already; what it did to a remote is not done again.
        expected: The commit at which the other side was afterwards, where that is known.
    """

    at: datetime | None = None
    key: str | None = None
    is_relayed: bool = False
    expected: str | None = None


@dataclass(slots=True)
class _At:
    """A call on its way: where, and under which rules.

    Attributes:
        has_begun: Something that writes was begun.
    """

    sandbox: Sandbox
    call: Call
    rules: RemoteRules
    has_begun: bool = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around what changes the workspace or its remote."""
        is_first, self.has_begun = not self.has_begun, True
        try:
            yield
        except ServiceError as exc:
            if is_first and exc.code in _KEPT_OUT:
                self.has_begun = False
            raise

    async def git(
        self,
        subcommand: str,
        *arguments: str,
        how: How = _PLAIN,
        keep_bytes: int = LIST_OUTPUT_LIMIT_BYTES,
    ) -> Finished:
        command = git(subcommand, *arguments, global_config=self.sandbox.global_config, how=how)
        if not how.is_outside:
            await self.sandbox.prepare()
        effect = nullcontext() if how.is_read or how.is_outside else self.writing()
        with effect, metrics.COMMAND_SECONDS.time():
            done = await self.sandbox.run(command, keep_bytes=keep_bytes)
        # A remote may send back what it was sent.
        return replace(done, stderr=without_token(done.stderr, how.talk.token if how.talk else None))

    def token_for(self, remote: Remote, given: str | None) -> str | None:
        """The credential for a remote: the caller's, else the service's own where that is for this host."""
        return given or self.rules.credential.for_url(remote.url)

    async def head(self) -> Result:
        """`{branch, head}` as they stand now."""
        found = await self.git("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=no", how=_READ)
        _check(found)
        return parse_head(found.stdout)


async def perform(name: str, sandbox: Sandbox, arguments: Arguments, call: Call, rules: RemoteRules) -> Result:
    """Performs an operation in a workspace that has what it needs.

    Raises:
        ServiceError: It failed; `has_begun` says whether that nothing was done may be said.
    """
    at = _At(sandbox, call, rules)
    try:
        return await _HANDLERS[name](at, arguments)
    except ServiceError as exc:
        exc.has_begun = at.has_begun
        raise


async def check_remote(url: str, sandbox: Sandbox, rules: RemoteRules) -> Result:
    """Whether a remote can be read from a sandbox with the service's own credential.

    Returns:
        `{"branches": how many it has, "credential": whether one was sent}`.

    Raises:
        ServiceError: It cannot.
    """
    at = _At(sandbox, Call(), rules)
    remote = await judge_remote(url, rules)
    token = at.token_for(remote, None)
    how = How(is_outside=True, talk=Talk(remote, RemoteProgram.UPLOAD, token))
    shown = await at.git("ls-remote", "--heads", "--quiet", "--", remote.url, how=how)
    _check_remote(shown)
    return {"branches": shown.stdout.count(b"\n"), "credential": token is not None}


# --- remotes -------------------------------------------------------------------------------------------------------


async def _clone(at: _At, arguments: contract.Clone) -> Result:
    remote = await judge_remote(arguments.url, at.rules)
    place = f"clone-{secrets.token_hex(8)}"
    options = ["--no-local", "--no-recurse-submodules", "--quiet"]
    options += ["--branch", arguments.branch] if arguments.branch else []
    options += ["--depth", str(arguments.depth)] if arguments.depth else []
    how = How(is_outside=True, talk=Talk(remote, RemoteProgram.UPLOAD, at.token_for(remote, arguments.token)))
    try:
        done = await at.git("clone", *options, "--", remote.url, place, how=how)
        _check_remote(done)
        if at.call.expected is not None:
            await _bring(at, replace(how, place=place), arguments, at.call.expected)
    except BaseException:
        await to_the_end(at.sandbox.discard_clone(place))
        raise
    with at.writing():
        await at.sandbox.settle_clone(place, arguments.url)
    return await at.head()


async def _bring(at: _At, talking: How, arguments: contract.Clone, commit: str) -> None:
    """Takes a fresh clone to the commit that the other side cloned: the remote may have moved on since.

    Args:
        at: The call.
        talking: How the clone is reached, and the remote from there.
        arguments: Of the clone, whose depth may not reach as far back as that.
        commit: Where the other side is.
    """
    within = replace(talking, talk=None)
    if arguments.depth is not None and not await _holds(at, within, commit):
        assert talking.talk is not None
        url = talking.talk.remote.url
        # As deep from there as the other side's. Where the remote gives no commit by its name, all there is.
        branch = [arguments.branch] if arguments.branch else []
        for depth, wanted in ((f"--depth={arguments.depth}", [commit]), ("--unshallow", branch)):
            await at.git("fetch", "--quiet", "--no-tags", depth, "--", url, *wanted, how=talking)
            if await _holds(at, within, commit):
                break
    moved = await at.git("reset", "--quiet", "--hard", commit, how=within)
    if moved.code:
        raise ServiceError(Code.DIVERGED, "the clone does not hold the commit that the other side has")
    kept = await at.git(
        "rev-parse", "--symbolic-full-name", "--verify", "--quiet", "@{upstream}", how=replace(within, is_read=True)
    )
    tracking = kept.stdout.decode(errors="replace").strip()
    if tracking:
        _check(await at.git("update-ref", tracking, commit, how=within))


async def _holds(at: _At, within: How, commit: str) -> bool:
    found = await at.git("cat-file", "-e", f"{commit}^{{commit}}", how=replace(within, is_read=True))
    return not found.code


async def _pull(at: _At, arguments: contract.Sync) -> Result:
    remote, name = await _named_remote(at, arguments)
    before = await at.head()
    branch = arguments.branch or _current(before)
    tracking = f"refs/remotes/{name}/{branch}"
    update = f"+refs/heads/{branch}:{tracking}"
    fetched = await at.git(
        "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--", remote.url, update,
        how=How(talk=Talk(remote, RemoteProgram.UPLOAD, at.token_for(remote, arguments.token))),
    )  # fmt: skip
    _check_remote(fetched)
    target = tracking
    if at.call.expected is not None:
        # The remote may have moved on since the other side pulled.
        target = at.call.expected
        known = await at.git("rev-parse", "--verify", "--quiet", f"{target}^{{commit}}", how=_READ)
        if known.code:
            raise ServiceError(Code.DIVERGED, "the remote does not hold the commit that the other side has")
        _check(await at.git("update-ref", tracking, target))
    merged = await at.git("merge", "--ff-only", "--quiet", target)
    if merged.code:
        said = merged.stderr.decode(errors="replace")
        if "Not possible to fast-forward" in said or "Diverging branches" in said:
            raise ServiceError(
                Code.DIVERGED, f"branch {branch} and the remote's have both moved on; nothing was merged"
            )
        if "would be overwritten" in said:
            raise ServiceError(Code.CONFLICT, "local changes would be overwritten; commit or reset them first")
        _check(merged)
    after = await at.head()
    if at.call.expected is not None and after["head"] != at.call.expected:
        raise ServiceError(Code.DIVERGED, "this side was ahead of the commit that the other side pulled")
    return {**after, "updated": after["head"] != before["head"]}


async def _push(at: _At, arguments: contract.Sync) -> Result:
    remote, name = await _named_remote(at, arguments)
    now = await at.head()
    branch = arguments.branch or _current(now)
    if at.call.is_relayed:
        return await _note_push(at, name, branch)
    update = f"refs/heads/{branch}:refs/heads/{branch}"
    done = await at.git(
        "push", "--porcelain", "--no-recurse-submodules", "--no-verify", "--", remote.url, update,
        how=How(talk=Talk(remote, RemoteProgram.RECEIVE, at.token_for(remote, arguments.token))),
    )  # fmt: skip
    lines = [line.split("\t") for line in done.stdout.decode(errors="replace").splitlines() if "\t" in line]
    if done.code:
        said = done.stderr.decode(errors="replace")
        if any(line[0] == "!" and "[remote rejected]" in line[-1] for line in lines):
            raise ServiceError(Code.CONFLICT, f"the remote does not take branch {branch}: {_summary(done.stderr)}")
        if any(line[0] == "!" for line in lines):
            raise ServiceError(Code.DIVERGED, f"the remote's branch {branch} has moved on; pull first")
        if "does not match any" in said:
            raise ServiceError(Code.NOT_FOUND, f"there is no branch {branch}")
        _check_remote(done)
    head = await _commit_of(at, branch)
    return {"remote": name, "branch": branch, "head": head, "pushed": any(line[0] != "=" for line in lines)}


async def _note_push(at: _At, remote: str, branch: str) -> Result:
    """What is left to do of a push that the other side has done: the remote-tracking branch."""
    head = await _commit_of(at, branch)
    if at.call.expected is not None and head != at.call.expected:
        raise ServiceError(Code.DIVERGED, f"branch {branch} is not at the commit that the other side pushed")
    _check(await at.git("update-ref", f"refs/remotes/{remote}/{branch}", head))
    return {"remote": remote, "branch": branch, "head": head, "pushed": True}


async def _commit_of(at: _At, branch: str) -> str:
    shown = await at.git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", how=_READ)
    if shown.code:
        raise ServiceError(Code.NOT_FOUND, f"there is no branch {branch}")
    return shown.stdout.decode().strip()


async def _named_remote(at: _At, arguments: contract.Sync) -> tuple[Remote, str]:
    """The remote of a call. There is one, the one that was cloned; its URL comes from us, not from the repository."""
    name = arguments.remote or "origin"
    if name != "origin":
        raise ServiceError(Code.NOT_FOUND, f"there is no remote {name}")
    return await judge_remote(await at.sandbox.remote_url(), at.rules), name


def _current(head: Result) -> str:
    if head["branch"] is None:
        raise ServiceError(Code.INVALID_ARGUMENT, "no branch is checked out; name one")
    return str(head["branch"])


# --- changes -------------------------------------------------------------------------------------------------------


async def _add(at: _At, arguments: contract.Add) -> Result:
    paths = ["/".join(split_path(path)) or "." for path in arguments.files]
    # By standard input: so many paths are longer than a command line may be.
    listed = How(stdin="".join(f"{path}\0" for path in paths).encode())
    done = await at.git("add", "--pathspec-from-file=-", "--pathspec-file-nul", how=listed)
    if done.code:
        said = done.stderr.decode(errors="replace")
        if "did not match any files" in said:
            raise ServiceError(Code.NOT_FOUND, "one of the files does not exist")
        if "beyond a symbolic link" in said:
            raise ServiceError(Code.PATH_REFUSED, "a path is refused: one of its parts is a symbolic link")
        _check(done)
    shown = await at.git("diff", "--cached", "--name-only", "--no-renames", "-z", how=_READ)
    _check(shown)
    if shown.truncated:
        raise ServiceError(Code.TOO_LARGE, "the files are staged, and too many are to list them")
    return {"staged": sorted(_texts(shown.stdout))}


async def _commit(at: _At, arguments: contract.Commit) -> Result:
    if not arguments.message.strip():
        raise ServiceError(Code.INVALID_ARGUMENT, "the message is empty")
    given = Identity(at=at.call.at)
    identity = replace(given, name=arguments.author_name or given.name, email=arguments.author_email or given.email)
    done = await at.git(
        "commit", "--quiet", "--no-verify", "--no-gpg-sign", "--cleanup=strip", "--file=-",
        how=How(identity=identity, stdin=arguments.message.encode()),
    )  # fmt: skip
    if done.code:
        said = (done.stdout + done.stderr).decode(errors="replace")
        if re.search(r"nothing (added )?to commit|no changes added to commit", said):
            raise ServiceError(Code.NOTHING_TO_COMMIT, "nothing is staged")
        if "empty commit message" in said:
            raise ServiceError(Code.INVALID_ARGUMENT, "the message is empty without its comments")
        if "disallowed characters" in said:
            raise ServiceError(Code.INVALID_ARGUMENT, "author_name: holds nothing but punctuation")
        if "unmerged files" in said:
            raise ServiceError(Code.CONFLICT, "some files are unmerged")
        _check(done)
    now = await at.head()
    if at.call.expected is not None and now["head"] != at.call.expected:
        raise ServiceError(Code.DIVERGED, "the commit differs from the one that the other side made")
    return now


async def _reset(at: _At, arguments: contract.Reset) -> Result:
    _check(await at.git("reset", "--quiet", f"--{arguments.mode}", "HEAD"))
    return {**await at.head(), "mode": arguments.mode}


async def _checkout(at: _At, arguments: contract.Checkout) -> Result:
    _check_switch(
        await at.git("checkout", "--quiet", "--no-recurse-submodules", arguments.branch, "--"), arguments.branch
    )
    return await at.head()


async def _create_branch(at: _At, arguments: contract.CreateBranch) -> Result:
    base = [arguments.base] if arguments.base else []
    done = await at.git("checkout", "--quiet", "--no-recurse-submodules", "-b", arguments.name, *base, "--")
    _check_switch(done, arguments.base or arguments.name)
    return await at.head()


def _check_switch(done: Finished, target: str) -> None:
    if not done.code:
        return
    said = done.stderr.decode(errors="replace")
    if "not a valid branch name" in said:
        raise ServiceError(Code.INVALID_ARGUMENT, "git keeps that name for itself")
    if "cannot lock ref" in said and "exists" in said:
        raise ServiceError(Code.CONFLICT, "a branch is in the way: one name is the beginning of the other")
    if "already exists" in said:
        raise ServiceError(Code.CONFLICT, "a branch of that name exists")
    if "would be overwritten" in said:
        raise ServiceError(Code.CONFLICT, "local changes would be overwritten; commit or reset them first")
    if "invalid reference" in said or "not a commit" in said or "unknown revision" in said or "not a valid" in said:
        raise ServiceError(Code.NOT_FOUND, f"there is no {target}")
    _check(done)


# --- reads ---------------------------------------------------------------------------------------------------------


async def _status(at: _At, _: Arguments) -> Result:
    found = await at.git("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", how=_READ)
    _check(found)
    if found.truncated:
        raise ServiceError(Code.TOO_LARGE, "too many files have changed to list them")
    return parse_status(found.stdout)


async def _branch(at: _At, _: Arguments) -> Result:
    shown = await at.git(
        "for-each-ref", "--format=%(HEAD)%00%(refname:lstrip=2)%00%(objectname)", "refs/heads", how=_READ
    )
    _check(shown)
    if shown.truncated:
        raise ServiceError(Code.TOO_LARGE, "there are too many branches to list them")
    rows = [line.split("\0") for line in shown.stdout.decode(errors="replace").splitlines()]
    current = next((name for mark, name, _ in rows if mark == "*"), None)
    return {
        "current": current,
        "branches": sorted(({"name": n, "head": h} for _, n, h in rows), key=lambda b: b["name"]),
    }


async def _diff(at: _At, arguments: contract.Diff) -> Result:
    options = ["--cached"] if arguments.staged else []
    shown = await at.git(
        "diff", "--no-ext-diff", "--no-textconv", "--no-color", f"--unified={arguments.context_lines}", *options, "--",
        how=_READ, keep_bytes=OUTPUT_LIMIT_BYTES,
    )  # fmt: skip
    _check(shown)
    return {"diff": _text(shown), "truncated": shown.truncated}


async def _log(at: _At, arguments: contract.Log) -> Result:
    shown = await at.git(
        "log", "--no-show-signature", f"--max-count={arguments.max_count}", "-z", f"--format={_LOG_FORMAT}", "--",
        how=_READ, keep_bytes=FILE_LIMIT_BYTES,
    )  # fmt: skip
    if shown.code and "does not have any commits yet" in shown.stderr.decode(errors="replace"):
        return {"commits": []}
    _check(shown)
    # -z separates commits as the format separates fields: five texts for each.
    texts = _text(shown).removesuffix("\0").split("\0")
    whole = len(texts) - (1 if shown.truncated else 0)
    rows = [texts[n : n + len(_FIELDS)] for n in range(0, whole - len(_FIELDS) + 1, len(_FIELDS))]
    commits = [dict(zip(_FIELDS, row, strict=True)) for row in rows]
    return {"commits": commits, "truncated": True} if shown.truncated else {"commits": commits}


async def _show(at: _At, arguments: contract.Show) -> Result:
    shown = await at.git(
        "show", "--no-ext-diff", "--no-textconv", "--no-color", f"--format={_LOG_FORMAT}%x00",
        f"{arguments.revision}^{{commit}}", "--",
        how=_READ, keep_bytes=OUTPUT_LIMIT_BYTES,
    )  # fmt: skip
    if shown.code == _FATAL:
        raise ServiceError(Code.NOT_FOUND, f"there is no commit {arguments.revision}")
    _check(shown)
    # The subject alone may be longer than what is kept.
    *row, diff = [*_text(shown).split("\0", len(_FIELDS)), *[""] * len(_FIELDS)][: len(_FIELDS) + 1]
    return {**dict(zip(_FIELDS, row, strict=True)), "diff": diff.lstrip("\n"), "truncated": shown.truncated}


# --- files ---------------------------------------------------------------------------------------------------------


async def _file_write(at: _At, arguments: contract.Write) -> Result:
    content = arguments.content.encode()
    if len(content) > FILE_LIMIT_BYTES:
        raise ServiceError(Code.TOO_LARGE, f"a file of more than {FILE_LIMIT_BYTES} bytes cannot be written")
    with at.writing():
        await at.sandbox.write_file(arguments.path, content)
    return {
        "path": "/".join(split_path(arguments.path)),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


async def _file_delete(at: _At, arguments: contract.OnePath) -> Result:
    with at.writing():
        await at.sandbox.delete_file(arguments.path)
    return {"path": "/".join(split_path(arguments.path))}


async def _file_read(at: _At, arguments: contract.OnePath) -> Result:
    content, size = await at.sandbox.read_file(arguments.path, FILE_LIMIT_BYTES)
    truncated = size > len(content)
    try:
        # A cut in the middle of a character makes no text of the rest.
        text, encoding = content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as exc:
        if truncated and len(content) - exc.start < 4 and exc.reason == "unexpected end of data":
            text, encoding = content[: exc.start].decode("utf-8"), "utf-8"
        else:
            text, encoding = base64.b64encode(content).decode(), "base64"
    path = "/".join(split_path(arguments.path))
    return {"path": path, "content": text, "encoding": encoding, "size": size, "truncated": truncated}


async def _file_list(at: _At, arguments: contract.SomePath) -> Result:
    found = await at.sandbox.list_directory(arguments.path or "")
    if sum(len(entry.path) for entry in found) > LISTING_LIMIT:
        raise ServiceError(Code.TOO_LARGE, f"the paths of its entries are longer than {LISTING_LIMIT} characters")
    return {"entries": [{"path": entry.path, "type": entry.kind, "size": entry.size} for entry in found]}


_HANDLERS: Final[Mapping[str, Callable[[_At, Any], Awaitable[Result]]]] = {
    "git.clone": _clone,
    "git.pull": _pull,
    "git.push": _push,
    "git.add": _add,
    "git.commit": _commit,
    "git.reset": _reset,
    "git.checkout": _checkout,
    "git.create_branch": _create_branch,
    "git.status": _status,
    "git.branch": _branch,
    "git.diff": _diff,
    "git.log": _log,
    "git.show": _show,
    "file.write": _file_write,
    "file.delete": _file_delete,
    "file.read": _file_read,
    "file.list": _file_list,
}


# --- failures ------------------------------------------------------------------------------------------------------


def _check(done: Finished) -> None:
    if done.code:
        if any(said in done.stderr for said in _NO_TREE):
            raise ServiceError(
                Code.SANDBOX_UNAVAILABLE, "the work tree was replaced by a clone in the middle of the call"
            )
        raise ServiceError(Code.GIT_FAILED, f"git failed: {_summary(done.stderr)}")


def _check_remote(done: Finished) -> None:
    if not done.code:
        return
    said = done.stderr.decode(errors="replace")
    if re.search(
        r"Authentication failed|could not read Username|returned error: 40[13]|terminal prompts disabled", said
    ):
        raise ServiceError(Code.REMOTE_AUTH_FAILED, "the remote does not accept the credentials, or asks for some")
    if re.search(r"[Rr]emote branch .* not found|couldn't find remote ref", said):
        raise ServiceError(Code.NOT_FOUND, "the remote has no such branch")
    if re.search(r"repository '[^']*' not found", said):
        raise ServiceError(Code.NOT_FOUND, "the remote has no such repository")
    _check(done)


def _summary(stderr: bytes) -> str:
    """The last lines of what git said, without credentials and without paths of this machine."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    text = _PATHS.sub("…", _CREDENTIALS.sub(r"\1", " | ".join(lines[-3:])))
    return "".join(c if c.isprintable() else "?" for c in text)[-_MESSAGE_LIMIT:] or "it said nothing"


def _text(shown: Finished) -> str:
    """What was said, without the half of a character where it was cut."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder.decode(shown.stdout, final=not shown.truncated)


def _texts(output: bytes) -> list[str]:
    return [part.decode(errors="replace") for part in output.split(b"\0") if part]
