"""How git is called: every argument, option and variable that keeps a hostile repository from running anything.

Pure. Each rule was shown to be needed by a planted file or an odd argument that did harm without it; tests plant them.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
"""The letters in upper case, as RFC 3339 section 5.6 advises."""

DEFAULT_NAME: Final = "Crossfade Agent"
DEFAULT_EMAIL: Final = "agent@crossfade.invalid"

_OPTIONS: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.fileMode": "true",
    # A name that is .git to another file system is no file here either.
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.pager": "cat",
    "core.editor": "false",
    "protocol.ext.allow": "never",
    "safe.bareRepository": "explicit",
    "http.followRedirects": "false",
    "commit.gpgsign": "false",
    "tag.gpgsign": "false",
    "push.gpgSign": "false",
    "commit.cleanup": "strip",
    "i18n.commitEncoding": "utf-8",
    "i18n.logOutputEncoding": "utf-8",
    "credential.helper": "",
    "branch.autoSetupMerge": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "push.recurseSubmodules": "no",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
}


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote that may be talked to.

    Attributes:
        url: As git gets it.
        path: The repository, where it lies on this machine.
        pinned: `host:port:address` for libcurl, so that the address that was judged is the one that is used.
    """

    url: str
    path: str | None = None
    pinned: str | None = None


class RemoteProgram(StrEnum):
    """What answers at the far end."""

    UPLOAD = "upload-pack"
    RECEIVE = "receive-pack"


@dataclass(frozen=True, slots=True)
class Talk:
    """A call's talk with a remote.

    Attributes:
        remote: With whom.
        program: What answers.
        token: Credential for an HTTP remote; reaches git by its environment alone.
    """

    remote: Remote
    program: RemoteProgram
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Served:
    """What the service itself must serve to a command.

    Attributes:
        path: A repository of this machine.
        program: What serves it.
    """

    path: str
    program: RemoteProgram


@dataclass(frozen=True, slots=True)
class Identity:
    """Who commits.

    Attributes:
        name: One line.
        email: One line.
        at: Aware; None = now.
    """

    name: str = DEFAULT_NAME
    email: str = DEFAULT_EMAIL
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run in a sandbox.

    Attributes:
        argv: Program and arguments; no secrets.
        env: The whole environment but for `HOME` and `PATH`, which the sandbox knows.
        stdin: What it reads.
        served: The local remote that it talks to.
        is_outside: It runs beside the repository, where a clone is made.
        what: A word for it, for whoever looks at what was run.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    stdin: bytes = b""
    served: Served | None = None
    is_outside: bool = False
    what: str = "command"


@dataclass(frozen=True, slots=True)
class How:
    """How git is called.

    Attributes:
        is_read: It must not take locks for convenience.
        is_outside: It runs beside the repository, where a clone is made.
        place: The clone, beside the repository, that it works in; empty = none.
        talk: Its talk with a remote, or None.
        identity: Author and committer.
        stdin: What it reads.
    """

    is_read: bool = False
    is_outside: bool = False
    place: str = ""
    talk: Talk | None = None
    identity: Identity = Identity()
    stdin: bytes = b""


# Standard input is kept under another number: a shell gives its background jobs none. The job must not hold standard
# output, so that git sees its end as soon as the far end is gone. The path that git appends goes to `:`.
CONNECT: Final = (
    'exec 3<&0; cat <&3 >"$CROSSFADE_TO_REMOTE" & exec 3<&-; cat <"$CROSSFADE_FROM_REMOTE"; kill $! 2>/dev/null; :'
)
"""What git runs in place of the far end of a local remote; the far end is served outside the sandbox."""


def git(subcommand: str, *arguments: str, global_config: str, how: How = How()) -> Command:
    """Builds a call of git.

    Args:
        subcommand: Such as `status`.
        arguments: What follows it. Values that callers chose stand behind `--` or were validated.
        global_config: Path of our global configuration.
        how: The rest.
    """
    remote = how.talk.remote if how.talk is not None else None
    options = dict(_OPTIONS)
    if remote is not None and remote.pinned:
        options["http.curloptResolve"] = remote.pinned
    argv = ["git", *(part for name, value in options.items() for part in ("-c", f"{name}={value}"))]
    if not how.is_outside:
        # The repository in the working directory, found by name and not by search.
        argv += ["--git-dir=.git", "--work-tree=."]
    elif how.place:
        argv += ["-C", how.place]
    argv.append(subcommand)
    served = None
    if how.talk is not None and remote is not None and remote.path is not None:
        served = Served(remote.path, how.talk.program)
        argv.append(f"--{how.talk.program.value}={CONNECT}")
    argv += arguments
    env = _environment(global_config, "https:http:file" if served else "https:http")
    if how.is_read:
        env["GIT_OPTIONAL_LOCKS"] = "0"
    if how.talk is not None and how.talk.token is not None and served is None:
        env |= _with_token(how.talk.remote.url, how.talk.token)
    env |= _with_identity(how.identity)
    return Command(tuple(argv), env, how.stdin, served, how.is_outside, subcommand)


def script(text: str, *arguments: str, global_config: str, how: How = How()) -> Command:
    """Builds a call of several gits, which takes one process of the sandbox instead of one each.

    Args:
        text: For `sh`; `g` stands for a git with our options. It must not be made of what callers chose.
        arguments: `$1` and so on.
        global_config: Path of our global configuration.
        how: The rest; no talk with a remote.
    """
    assert how.talk is None
    options = shlex.join(part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}"))
    whole = f'set -eu; g() {{ git {options} "$@"; }}; {text}'
    env = _environment(global_config, "https:http")
    if how.is_read:
        env["GIT_OPTIONAL_LOCKS"] = "0"
    env |= _with_identity(how.identity)
    return Command(("sh", "-c", whole, "sh", *arguments), env, how.stdin, None, how.is_outside, "script")


def read_request_time(text: str) -> datetime | None:
    """`Crossfade-Request-Time`, to the second; None when it is no RFC 3339 time, or one that git cannot write."""
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        at = datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return None
    return at if at.timestamp() >= 0 else None


def without_token(text: bytes, token: str | None) -> bytes:
    """What was said, without a credential in any form that we sent."""
    if token is None:
        return text
    for form in (_credential(token), token):
        text = text.replace(form.encode(), b"(token)")
    return text


def _environment(global_config: str, protocols: str) -> dict[str, str]:
    return {
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": global_config,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": "/bin/false",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_PAGER": "cat",
    }


def _with_token(url: str, token: str) -> dict[str, str]:
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{url}.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {_credential(token)}",
    }


def _credential(token: str) -> str:
    return base64.b64encode(f"x-access-token:{token}".encode()).decode()


def _with_identity(identity: Identity) -> dict[str, str]:
    env: dict[str, str] = {}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": identity.name, f"GIT_{role}_EMAIL": identity.email}
        if identity.at is not None:
            env[f"GIT_{role}_DATE"] = f"@{int(identity.at.timestamp())} +0000"
    return env


GLOBAL_CONFIG: Final = """\
# Written by crossfade; read by every git that runs in a sandbox.
[init]
\tdefaultBranch = main
"""
"""Content of our global configuration."""
