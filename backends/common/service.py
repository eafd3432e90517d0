"""What the surfaces need of a service; approach 1 and approach 2 are two of them."""

from __future__ import annotations

from typing import Any, Protocol

from backends.common.contract import Arguments, Operation
from backends.common.git_operations import Call
from backends.common.workspace import WorkspaceId


class GitService(Protocol):
    """Performs operations on workspaces."""

    @property
    def name(self) -> str:
        """Such as `approach1`."""
        ...

    async def start(self) -> None:
        """Gets ready to serve."""
        ...

    async def aclose(self) -> None:
        """Lets go of everything."""
        ...

    async def why_not_ready(self) -> str | None:
        """What keeps it from serving, or None."""
        ...

    async def perform(
        self, operation: Operation, workspace: WorkspaceId, arguments: Arguments, call: Call
    ) -> dict[str, Any]:
        """Performs an operation; returns its result as the contract has it.

        Raises:
            ServiceError: It failed.
        """
        ...
