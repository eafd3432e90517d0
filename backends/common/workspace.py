"""Which workspace a call is about: an agent and its task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backends.common.errors import Code, ServiceError

_PART: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGEST_CHARACTERS: Final = 32


@dataclass(frozen=True, slots=True)
class WorkspaceId:
    """Names a workspace.

    Attributes:
        agent_id: 1-128 of `A-Z a-z 0-9 . _ -`.
        task_id: Likewise.
    """

    agent_id: str
    task_id: str

    def __str__(self) -> str:
        return f"{self.agent_id}/{self.task_id}"

    @property
    def digest(self) -> str:
        """A name that is safe as a directory's, whatever the ids are."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:_DIGEST_CHARACTERS]


def workspace_of(headers: Mapping[str, str], arguments: Mapping[str, object]) -> WorkspaceId:
    """Finds the workspace of a call.

    Args:
        headers: Lower-case names.
        arguments: Of the call; `agent_id` and `task_id` among them count.

    Raises:
        ServiceError: It is not named (`workspace_required`), named twice and differently (`workspace_mismatch`), or the
            name is not valid.
    """
    return WorkspaceId(
        _part("agent_id", "x-agent-id", headers, arguments), _part("task_id", "x-task-id", headers, arguments)
    )


def _part(argument: str, header: str, headers: Mapping[str, str], arguments: Mapping[str, object]) -> str:
    said = headers.get(header)
    given = arguments.get(argument)
    if given is not None and not isinstance(given, str):
        raise ServiceError(Code.INVALID_ARGUMENT, f"{argument} is no text")
    if said is not None and given is not None and said != given:
        raise ServiceError(Code.WORKSPACE_MISMATCH, f"{header} and {argument} name different workspaces")
    value = said if said is not None else given
    if not value:
        raise ServiceError(
            Code.WORKSPACE_REQUIRED, "name the workspace: X-Agent-Id and X-Task-Id, or agent_id and task_id"
        )
    if not _PART.fullmatch(value):
        raise ServiceError(Code.INVALID_ARGUMENT, f"{argument} must be 1-128 of A-Z a-z 0-9 . _ -")
    return value
