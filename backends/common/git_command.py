"""How git is called: every argument, option and variable that keeps a hostile repository from running anything.

Pure. Each rule was shown to be needed by a planted file or an odd argument that did harm without it; tests plant them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

DEFAULT_NAME: Final = "Crossfade Agent"
DEFAULT_EMAIL: Final = "agent@crossfade.invalid"

_OPTIONS: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.fileMode": "true",
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
        is_local: A path on this machine.
        pinned: `host:port:address` for libcurl, so that the address that was judged is the one that is used.
    """

    url: str
    is_local: bool = False
    pinned: str | None = None


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
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


def git(
    *arguments: str,
    global_config: str,
    is_read: bool = False,
    remote: Remote | None = None,
    token: str | None = None,
    identity: Identity | None = None,
    stdin: bytes = b"",
) -> Command:
    """Builds a call of git.

    Args:
        arguments: Subcommand and what follows it. Values that callers chose stand behind `--` or were validated.
        global_config: Path of our global configuration.
        is_read: It must not take locks for convenience.
        remote: The remote it talks to, or None.
        token: Credential for an HTTP remote; reaches git by its environment alone.
        identity: Author and committer.
        stdin: What it reads.
    """
    options = dict(_OPTIONS)
    if remote is not None and remote.pinned:
        options["http.curloptResolve"] = remote.pinned
    argv = ["git", *(part for name, value in options.items() for part in ("-c", f"{name}={value}")), *arguments]
    env = {
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": global_config,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": "/bin/false",
        "GIT_ALLOW_PROTOCOL": "https:http:file" if remote is not None and remote.is_local else "https:http",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_PAGER": "cat",
    }
    if is_read:
        env["GIT_OPTIONAL_LOCKS"] = "0"
    if token is not None and remote is not None and not remote.is_local:
        env |= _with_token(remote.url, token)
    env |= _with_identity(identity or Identity())
    return Command(tuple(argv), env, stdin)


def in_repository(*arguments: str) -> tuple[str, ...]:
    """Arguments of a call on the repository in the working directory, found by name and not by search."""
    return ("--git-dir=.git", "--work-tree=.", *arguments)


def read_request_time(text: str) -> datetime | None:
    """`Crossfade-Request-Time`, to the second; None when it is no RFC 3339 time."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return at.astimezone(UTC).replace(microsecond=0) if at.tzinfo is not None else None


def _with_token(url: str, token: str) -> dict[str, str]:
    credential = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{url}.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {credential}",
    }


def _with_identity(identity: Identity) -> dict[str, str]:
    env: dict[str, str] = {}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": identity.name, f"GIT_{role}_EMAIL": identity.email}
        if identity.at is not None:
            env[f"GIT_{role}_DATE"] = f"@{int(identity.at.timestamp())} +0000"
    return env


def global_config(safe_directories: Sequence[str]) -> str:
    """Content of our global configuration.

    Args:
        safe_directories: Repositories of other owners that may be used as local remotes.
    """
    lines = ["# Written by crossfade; read by every git that runs in a sandbox.", "[init]", "\tdefaultBranch = main"]
    if safe_directories:
        lines += ["[safe]", *(f"\tdirectory = {_quoted(path)}" for path in safe_directories)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
