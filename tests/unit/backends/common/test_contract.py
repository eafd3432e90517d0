from __future__ import annotations

import pytest

from backends.common.contract import OPERATIONS, TOOLS, Arguments
from backends.common.dispatch import check_arguments
from backends.common.errors import Code, ServiceError

WRITES = {
    "git.clone", "git.pull", "git.push", "git.add", "git.commit", "git.reset", "git.checkout", "git.create_branch",
    "file.write", "file.delete",
}  # fmt: skip
READS = {"git.status", "git.branch", "git.diff", "git.log", "git.show", "file.read", "file.list"}


def test_the_operations_and_their_classes_are_those_of_the_contract() -> None:
    assert {name for name, operation in OPERATIONS.items() if operation.is_write} == WRITES
    assert {name for name, operation in OPERATIONS.items() if not operation.is_write} == READS


def test_routes_and_tools_follow_from_the_name() -> None:
    assert OPERATIONS["git.create_branch"].route == "/v1/git/create_branch"
    assert TOOLS["file_read"] is OPERATIONS["file.read"]
    assert len(TOOLS) == len(OPERATIONS)


def test_reads_are_short_and_talks_with_remotes_are_not() -> None:
    for operation in OPERATIONS.values():
        assert operation.deadline_s == (240.0 if operation.leaves_sandbox else 30.0)
    assert {name for name, op in OPERATIONS.items() if op.leaves_sandbox} == {"git.clone", "git.pull", "git.push"}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_takes_its_workspace_as_arguments_and_nothing_unknown(name: str) -> None:
    model = OPERATIONS[name].arguments
    assert issubclass(model, Arguments)
    assert {"agent_id", "task_id"} <= set(model.model_fields)
    assert model.model_config["extra"] == "forbid"


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(ServiceError, match="surprise: there is no such argument"):
        check_arguments(OPERATIONS["git.status"].arguments, {"surprise": 1})


def test_a_refusal_names_the_argument_and_never_its_value() -> None:
    with pytest.raises(ServiceError) as caught:
        check_arguments(OPERATIONS["git.clone"].arguments, {"url": "/a", "token": "my secret"})
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith("token: ")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("branch", ["main", "feature/x", "ü", "a-b", "1.0", "a.b/c_d"])
def test_names_of_branches_are_taken(branch: str) -> None:
    check_arguments(OPERATIONS["git.checkout"].arguments, {"branch": branch})


@pytest.mark.parametrize(
    "branch",
    ["-x", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "/a", "a/", "a//b", "a.", ".a", "a/.b",
     "a.lock", "a.lock/b", "@", "a@{1}", "a\x7f", "a\n", ""],
)  # fmt: skip
def test_what_git_takes_for_no_branch_is_refused(branch: str) -> None:
    with pytest.raises(ServiceError):
        check_arguments(OPERATIONS["git.checkout"].arguments, {"branch": branch})


@pytest.mark.parametrize("revision", ["HEAD", "HEAD~2", "main^", "v1.0", "feature/x", "@{1}", "0123abc", "a^{commit}"])
def test_revisions_are_taken(revision: str) -> None:
    check_arguments(OPERATIONS["git.show"].arguments, {"revision": revision})


@pytest.mark.parametrize("revision", ["-x", "a..b", "a...b", "HEAD:x", ":x", "^a", "a b", "a\n", "--all", ""])
def test_ranges_paths_and_options_are_no_revision(revision: str) -> None:
    with pytest.raises(ServiceError):
        check_arguments(OPERATIONS["git.show"].arguments, {"revision": revision})
