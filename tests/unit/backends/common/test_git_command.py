from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from backends.common.git_command import (
    CONNECT,
    Command,
    How,
    Identity,
    Remote,
    RemoteProgram,
    Served,
    Talk,
    git,
    read_request_time,
    without_token,
)

HTTP = Remote("https://git.example/a.git", pinned="git.example:443:93.184.216.34")
LOCAL = Remote("file:///srv/a.git", path="/srv/a.git")


def build(subcommand: str = "status", *arguments: str, how: How | None = None) -> Command:
    return git(subcommand, *arguments, global_config="/box/gitconfig", how=how or How())


def options_of(command: Command) -> set[str]:
    return {value for flag, value in zip(command.argv, command.argv[1:], strict=False) if flag == "-c"}


HOWS = [
    How(),
    How(is_read=True),
    How(is_outside=True, talk=Talk(HTTP, RemoteProgram.UPLOAD, "t")),
    How(talk=Talk(LOCAL, RemoteProgram.RECEIVE)),
]


@pytest.mark.parametrize("how", HOWS)
def test_every_call_keeps_the_hard_rules(how: How) -> None:
    command = build("fetch", how=how)
    assert {
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "protocol.ext.allow=never",
        "safe.bareRepository=explicit",
        "http.followRedirects=false",
        "commit.gpgsign=false",
        "core.autocrlf=false",
        "core.fileMode=true",
        "core.protectHFS=true",
        "core.protectNTFS=true",
        "i18n.commitEncoding=utf-8",
        "commit.cleanup=strip",
        "submodule.recurse=false",
    } <= options_of(command)
    assert command.env["GIT_CONFIG_NOSYSTEM"] == "1"
    assert command.env["GIT_CONFIG_GLOBAL"] == "/box/gitconfig"
    assert command.env["GIT_TERMINAL_PROMPT"] == "0"
    assert command.env["GIT_LITERAL_PATHSPECS"] == "1"


def test_a_read_takes_no_optional_locks() -> None:
    assert build(how=How(is_read=True)).env["GIT_OPTIONAL_LOCKS"] == "0"
    assert "GIT_OPTIONAL_LOCKS" not in build().env


def test_the_repository_is_named_and_never_searched_for() -> None:
    argv = build().argv
    assert argv[argv.index("status") - 2 : argv.index("status")] == ("--git-dir=.git", "--work-tree=.")
    assert not [part for part in build("clone", how=How(is_outside=True)).argv if part.startswith("--git-dir")]


def test_files_are_a_protocol_only_for_a_local_remote() -> None:
    assert build(how=How(talk=Talk(LOCAL, RemoteProgram.UPLOAD))).env["GIT_ALLOW_PROTOCOL"] == "https:http:file"
    assert build(how=How(talk=Talk(HTTP, RemoteProgram.UPLOAD))).env["GIT_ALLOW_PROTOCOL"] == "https:http"
    assert build().env["GIT_ALLOW_PROTOCOL"] == "https:http"


def test_a_local_remote_is_served_from_outside() -> None:
    command = build("push", "--", LOCAL.url, how=How(talk=Talk(LOCAL, RemoteProgram.RECEIVE)))
    assert command.served == Served("/srv/a.git", RemoteProgram.RECEIVE)
    assert command.argv[command.argv.index("push") + 1] == f"--receive-pack={CONNECT}"
    assert build("push", how=How(talk=Talk(HTTP, RemoteProgram.RECEIVE))).served is None


def test_the_judged_address_is_the_one_that_is_used() -> None:
    pinned = options_of(build(how=How(talk=Talk(HTTP, RemoteProgram.UPLOAD))))
    assert "http.curloptResolve=git.example:443:93.184.216.34" in pinned


def test_a_token_is_in_the_environment_of_that_call_for_that_url_and_nowhere_else() -> None:
    command = build("fetch", how=How(talk=Talk(HTTP, RemoteProgram.UPLOAD, "s3cret")))
    encoded = base64.b64encode(b"x-access-token:s3cret").decode()
    assert not [part for part in command.argv if "s3cret" in part or encoded in part]
    assert command.env["GIT_CONFIG_COUNT"] == "1"
    assert command.env["GIT_CONFIG_KEY_0"] == "http.https://git.example/a.git.extraHeader"
    assert command.env["GIT_CONFIG_VALUE_0"] == f"Authorization: Basic {encoded}"


def test_a_token_never_goes_to_a_local_remote() -> None:
    command = build("fetch", how=How(talk=Talk(LOCAL, RemoteProgram.UPLOAD, "s3cret")))
    assert not [name for name in command.env if name.startswith("GIT_CONFIG_VALUE")]


def test_what_was_said_is_shown_without_the_token_in_any_form() -> None:
    encoded = base64.b64encode(b"x-access-token:s3cret").decode()
    said = f"remote: you sent Basic {encoded}, that is s3cret".encode()
    assert without_token(said, "s3cret") == b"remote: you sent Basic (token), that is (token)"
    assert without_token(said, None) == said


def test_who_and_when_are_both_author_and_committer() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    env = build("commit", how=How(identity=Identity("Ann", "a@b.c", at))).env
    for role in ("AUTHOR", "COMMITTER"):
        assert env[f"GIT_{role}_NAME"] == "Ann"
        assert env[f"GIT_{role}_EMAIL"] == "a@b.c"
        assert env[f"GIT_{role}_DATE"] == f"@{int(at.timestamp())} +0000"
    env = build("commit").env
    assert (env["GIT_AUTHOR_NAME"], env["GIT_AUTHOR_EMAIL"]) == ("Crossfade Agent", "agent@crossfade.invalid")
    assert "GIT_AUTHOR_DATE" not in env


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-02T03:04:05.678Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T05:04:05+02:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05", None),
        ("20260102T030405Z", None),
        ("2026-W01-1T00:00:00Z", None),
        ("2026-13-02T03:04:05Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("1969-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("\u0662026-01-02T03:04:05Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_time_of_a_request_is_read_to_the_second_in_utc(text: str, at: datetime | None) -> None:
    assert read_request_time(text) == at
