"""An agent: works on its tasks in turn, by the official MCP client, and notes what happened to each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

_START_AGAIN: Final = frozenset({"unknown_workspace", "diverged", "conflict", "not_found"})
"""What a workspace says that is not there, or was left behind when its key moved: a clone mends each."""
_CALL_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Made:
    """A call.

    Attributes:
        key: Of its workspace, as the gateway hashes it.
        tool: What was called.
        side: Who answered: `old` or `new`; "" when nobody did.
        began: Monotonic seconds.
        code: `ok`, or why it failed.
    """

    key: str
    tool: str
    side: str
    began: float
    code: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """A commit that a side said it had pushed."""

    branch: str
    commit: str


class MovedError(Exception):
    """The workspace changed sides in the middle of its work: it starts afresh."""


class FailedError(Exception):
    """A call failed that should not have."""


@dataclass
class Ledger:
    """What all agents did.

    Attributes:
        calls: Every call, in the order of their ends.
        pushed: Every push that was confirmed.
        failed: Calls that failed and should not have, for people.
        fresh: How often a workspace was cloned again on another side.
        done: Key -> when its last finished round of work began.
    """

    calls: list[Made] = field(default_factory=list)
    pushed: list[Pushed] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    fresh: int = 0
    done: dict[str, float] = field(default_factory=dict)


class Agent:
    """One agent and its workspaces."""

    def __init__(self, name: str, tasks: list[str], gateway: str, remote: str, ledger: Ledger) -> None:
        self.name = name
        self._tasks = tasks
        self._gateway = gateway
        self._remote = remote
        self._ledger = ledger
        self._side = ""
        self._count = 0
        self._known: set[str] = set()

    async def work(self, stop: asyncio.Event) -> None:
        """Works on each task in turn until told to stop."""
        async with httpx2.AsyncClient(timeout=_CALL_S, event_hooks={"response": [self._note_side]}) as http:
            transport = streamable_http_client(f"{self._gateway}/mcp", http_client=http)
            async with Client(transport, mode="2026-07-28") as client:
                while not stop.is_set():
                    for task in self._tasks:
                        await self._round(client, task)

    async def _note_side(self, response: httpx2.Response) -> None:
        self._side = response.headers.get("crossfade-side", "")

    async def _round(self, client: Client, task: str) -> None:
        """One piece of work: up to date, one more file, committed and pushed."""
        began = time.monotonic()
        try:
            await _Round(self, client, task).run()
        except MovedError:
            self._ledger.fresh += 1
        except FailedError as exc:
            self._ledger.failed.append(str(exc))
        else:
            self._ledger.done[f"{self.name}/{task}"] = began

    async def call(self, client: Client, task: str, tool: str, arguments: Mapping[str, Any]) -> tuple[str, str, Any]:
        """Calls a tool: the side that answered, `ok` or a code, and the result."""
        began = time.monotonic()
        result = await client.call_tool(tool, {"agent_id": self.name, "task_id": task, **arguments})
        content = result.structured_content or {}
        code = str(content.get("code", "unknown")) if result.is_error else "ok"
        self._ledger.calls.append(Made(f"{self.name}/{task}", tool, self._side, began, code))
        return self._side, code, content

    def next_number(self) -> int:
        """Tells pieces of work apart."""
        self._count += 1
        return self._count

    def is_known(self, branch: str) -> bool:
        """Whether the remote has this branch by now."""
        return branch in self._known

    def note_pushed(self, pushed: Pushed) -> None:
        """A side has confirmed a push."""
        self._known.add(pushed.branch)
        self._ledger.pushed.append(pushed)

    @property
    def remote(self) -> str:
        """What is cloned."""
        return self._remote


class _Round:
    """One piece of work on one task."""

    def __init__(self, agent: Agent, client: Client, task: str) -> None:
        self._agent = agent
        self._client = client
        self._task = task
        self._branch = f"{agent.name}/{task}"
        self._side: str | None = None

    async def run(self) -> None:
        """Does it.

        Raises:
            MovedError: The workspace is on another side than a moment ago.
            FailedError: A call failed that should not have.
        """
        await self._be_up_to_date()
        number = self._agent.next_number()
        path = f"{self._task}/note-{number}.txt"
        await self._do("file_write", path=path, content=f"{self._branch}: piece {number}\n")
        await self._do("git_add", files=[path])
        status = await self._do("git_status")
        if path not in status["staged"]:
            raise FailedError(f"{self._branch}: {path} was added and is not staged")
        committed = await self._do("git_commit", message=f"{self._branch}: piece {number}")
        pushed = await self._do("git_push")
        if pushed["head"] != committed["head"]:
            raise FailedError(f"{self._branch}: committed {committed['head']}, pushed {pushed['head']}")
        self._agent.note_pushed(Pushed(self._branch, pushed["head"]))

    async def _be_up_to_date(self) -> None:
        if self._agent.is_known(self._branch):
            code, _ = await self._try("git_pull")
            if code == "ok":
                return
            if code not in _START_AGAIN:
                raise FailedError(f"{self._branch}: git_pull: {code}")
            await self._do("git_clone", url=self._agent.remote, branch=self._branch)
            return
        await self._do("git_clone", url=self._agent.remote)
        await self._do("git_create_branch", name=self._branch)

    async def _do(self, tool: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of any tool
        code, content = await self._try(tool, **arguments)
        if code != "ok":
            raise FailedError(f"{self._branch}: {tool}: {code}: {content.get('message', '')}")
        return content

    async def _try(self, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401 - as above
        side, code, content = await self._agent.call(self._client, self._task, tool, arguments)
        if self._side is not None and side != self._side:
            raise MovedError
        self._side = side
        return code, content
