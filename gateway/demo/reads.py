"""The read load of the first act: every read of a workspace, over REST and by the official MCP client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from gateway.demo.repository import DemoError

NOTE: Final = "note.txt"
READS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("git.status", {}),
    ("git.branch", {}),
    ("git.log", {"max_count": 5}),
    ("git.diff", {}),
    ("git.show", {"revision": "HEAD"}),
    ("file.list", {}),
    ("file.read", {"path": NOTE}),
)
SURFACES: Final = 2
_CALL_S: Final = 60.0

Key = tuple[str, str]
"""Agent and task."""


class Reader:
    """A client of one gateway."""

    def __init__(self, rest: httpx.AsyncClient, mcp: Client) -> None:
        self._rest = rest
        self._mcp = mcp

    @classmethod
    @asynccontextmanager
    async def connected(cls, gateway: str) -> AsyncIterator[Reader]:
        """A reader, while it is needed."""
        try:
            async with (
                httpx.AsyncClient(base_url=gateway, timeout=_CALL_S, trust_env=False) as rest,
                httpx2.AsyncClient(timeout=_CALL_S, trust_env=False) as http,
                Client(streamable_http_client(f"{gateway}/mcp", http_client=http), mode="2026-07-28") as mcp,
            ):
                yield cls(rest, mcp)
        except ExceptionGroup as group:
            # The client's tasks wrap whatever goes wrong beside them.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from group
            raise

    async def read_all(self, key: Key) -> int:
        """Every read of a workspace over both surfaces; how many there were."""
        for operation, arguments in READS:
            await self.rest(key, operation, arguments)
            await self._tool(key, operation, arguments)
        return SURFACES * len(READS)

    async def rest(self, key: Key, operation: str, arguments: Mapping[str, Any]) -> None:
        """Calls an operation over REST.

        Raises:
            DemoError: It failed.
        """
        agent, task = key
        answer = await self._rest.post(
            f"/v1/{operation.replace('.', '/')}",
            json=dict(arguments),
            headers={"X-Agent-Id": agent, "X-Task-Id": task},
        )
        if answer.is_error:
            raise DemoError(f"{operation} of {agent}/{task}: {answer.status_code} {answer.text[:200]}")

    async def _tool(self, key: Key, operation: str, arguments: Mapping[str, Any]) -> None:
        agent, task = key
        tool = operation.replace(".", "_")
        result = await self._mcp.call_tool(tool, {"agent_id": agent, "task_id": task, **arguments})
        if result.is_error:
            raise DemoError(f"{tool} of {agent}/{task}: {result.structured_content}")
