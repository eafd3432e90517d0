"""Approach 1 in this process, on real sandboxes and real files, for what cannot be seen from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.approach1.notes import FileNotes
from backends.approach1.service import SimpleGitService
from backends.common.contract import OPERATIONS
from backends.common.dispatch import check_arguments
from backends.common.errors import ServiceError
from backends.common.git_operations import Call
from backends.common.remotes import RemoteRules
from backends.common.sandbox import SandboxProvider
from backends.common.workspace import WorkspaceId
from tests.support.services import Answer

WORKSPACE = WorkspaceId("agent", "task")


@dataclass
class Simple:
    """A service that is started.

    Attributes:
        service: It.
        provider: Of its sandboxes.
        notes: Its notes.
        directory: Where they lie.
    """

    service: SimpleGitService
    provider: SandboxProvider
    notes: FileNotes
    directory: Path

    async def call(
        self, operation: str, workspace: WorkspaceId = WORKSPACE, how: Call | None = None, **arguments: Any
    ) -> Answer:
        """Performs an operation, past the surfaces."""
        row = OPERATIONS[operation]
        given: Mapping[str, Any] = arguments
        try:
            checked = check_arguments(row.arguments, given)
            result = await self.service.workspaces.perform(row, workspace, checked, how or Call())
        except ServiceError as exc:
            return Answer(exc.content(), is_error=True)
        return Answer(result, is_error=False)

    async def ok(self, operation: str, workspace: WorkspaceId = WORKSPACE, **arguments: Any) -> dict[str, Any]:
        """Its result.

        Raises:
            AssertionError: It failed.
        """
        answer = await self.call(operation, workspace, **arguments)
        assert not answer.is_error, answer.content
        return answer.content


@asynccontextmanager
async def simple_service(provider: SandboxProvider, directory: Path, *remotes: Path) -> AsyncIterator[Simple]:
    """A service until the block ends.

    Args:
        provider: Of its sandboxes.
        directory: For its notes.
        remotes: Directories of repositories that it may use.
    """
    notes = FileNotes(directory)
    service = SimpleGitService(provider, notes, RemoteRules(tuple(path.resolve() for path in remotes)))
    await service.start()
    try:
        yield Simple(service, provider, notes, directory)
    finally:
        await service.aclose()
