from __future__ import annotations

import pytest

from backends.common.errors import Code, ServiceError
from backends.common.workspace import WorkspaceId, workspace_of

BOTH = {"x-agent-id": "a", "x-task-id": "t"}


@pytest.mark.parametrize(
    ("headers", "arguments"),
    [
        (BOTH, {}),
        ({}, {"agent_id": "a", "task_id": "t"}),
        (BOTH, {"agent_id": "a", "task_id": "t"}),
        ({"x-agent-id": "a"}, {"task_id": "t"}),
        (BOTH, {"agent_id": None}),
    ],
)
def test_headers_and_arguments_name_it(headers: dict[str, str], arguments: dict[str, object]) -> None:
    assert workspace_of(headers, arguments) == WorkspaceId("a", "t")


@pytest.mark.parametrize(
    ("headers", "arguments", "code"),
    [
        ({}, {}, Code.WORKSPACE_REQUIRED),
        ({"x-agent-id": "a"}, {}, Code.WORKSPACE_REQUIRED),
        ({"x-agent-id": "", "x-task-id": "t"}, {}, Code.WORKSPACE_REQUIRED),
        (BOTH, {"task_id": "u"}, Code.WORKSPACE_MISMATCH),
        (BOTH, {"agent_id": ""}, Code.WORKSPACE_MISMATCH),
        ({}, {"agent_id": 1, "task_id": "t"}, Code.INVALID_ARGUMENT),
        ({"x-agent-id": "a/b", "x-task-id": "t"}, {}, Code.INVALID_ARGUMENT),
        ({"x-agent-id": "a" * 129, "x-task-id": "t"}, {}, Code.INVALID_ARGUMENT),
        ({"x-agent-id": "a\n", "x-task-id": "t"}, {}, Code.INVALID_ARGUMENT),
    ],
)
def test_what_names_none_or_two_or_an_odd_one_is_refused(
    headers: dict[str, str], arguments: dict[str, object], code: Code
) -> None:
    with pytest.raises(ServiceError) as caught:
        workspace_of(headers, arguments)
    assert caught.value.code is code


def test_names_of_directories_tell_workspaces_apart() -> None:
    pairs = [("a", "b.c"), ("a.b", "c"), ("a", "b"), ("A", "b"), ("..", ".."), (".", "..")]
    assert len({WorkspaceId(*pair).digest for pair in pairs}) == len(pairs)
    assert all(WorkspaceId(*pair).digest.isalnum() for pair in pairs)
