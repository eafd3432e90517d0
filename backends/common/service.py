"""What the surfaces need of a service; approach 1 and approach 2 are two of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from backends.common.workspaces import Workspaces


class GitService(ABC):
    """Performs operations on workspaces.

    Attributes:
        name: Such as `approach1`.
        workspaces: What it does with calls.
    """

    name: ClassVar[str]
    workspaces: Workspaces

    @abstractmethod
    async def start(self) -> None:
        """Gets ready to serve."""

    @abstractmethod
    async def aclose(self) -> None:
        """Lets go of everything."""

    @abstractmethod
    async def why_not_ready(self) -> str | None:
        """What keeps it from serving, or None."""
