"""The first act: both sides hold the same workspaces, every read is mirrored, and a change on one side comes to light.

Writes are not copied yet, so the workspaces are copied by the services' own export and import before anything is
compared; one is left out, so only old knows it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from gateway.demo.check import Check
from gateway.demo.operator import GROUP, Operator
from gateway.demo.reads import NOTE, Key, Reader
from gateway.demo.repository import DemoError

_WORKSPACES: Final = 3
_ROUNDS: Final = 3
_LESSONS: Final = 5
_SUSPECTED_S: Final = 1.0
_REREAD_S: Final = 15.0
"""Both sides are read again 5 s after a difference was seen, and 10 s after that."""
_MISMATCH_S: Final = 30.0
_SETTLED_S: Final = 60.0
_POLL_S: Final = 0.05
_UNKNOWN: Final = "unknown_workspace"

Counts = dict[str, int]


class ShadowAct:
    """Mirrors reads of a few workspaces."""

    def __init__(self, runtime: Mapping[str, Any], operator: Operator, bare: Path, out: Console) -> None:
        self._runtime = runtime
        self._operator = operator
        self._bare = bare
        self._out = out
        self._keys = [("mirror", f"task-{n}") for n in range(_WORKSPACES)]
        self._alone = ("mirror", "on-old-alone")
        token = (Path(runtime["token_file"]).parent / "internal.token").read_text().strip()
        self._internal = {"Crossfade-Auth": token}

    async def run(self) -> list[Check]:
        """Performs; returns what was checked, and leaves the group `off`."""
        async with Reader.connected(self._runtime["gateway"]) as reader:
            for key in (*self._keys, self._alone):
                await reader.rest(key, "git.clone", {"url": str(self._bare)})
                await reader.rest(key, "file.write", {"path": NOTE, "content": _note(key)})
            await self._copy()
            await self._operator.change_group(stage="shadow_read", mirror_percent=100)
            checks = [await self._clean(reader), await self._apart(reader)]
            checks += await self._planted(reader)
            await self._operator.change_group(stage="off", mirror_percent=0)
            return checks

    async def _copy(self) -> None:
        """Old's workspaces to new, as a backfill would."""
        async with httpx.AsyncClient(timeout=60.0, trust_env=False, headers=self._internal) as http:
            for agent, task in self._keys:
                place = f"/v1/workspaces/{agent}/{task}"
                bundle = await http.get(f"{self._runtime['old']}{place}/export")
                fields = {"Crossfade-Workspace": bundle.headers.get("crossfade-workspace", "")}
                taken = await http.put(f"{self._runtime['new']}{place}/import", content=bundle.content, headers=fields)
                if bundle.is_error or taken.is_error:
                    why = (bundle if bundle.is_error else taken).text[:200]
                    raise DemoError(f"{agent}/{task} could not be copied: {why}")

    async def _clean(self, reader: Reader) -> Check:
        """All that was read agrees, once what is proposed is accepted."""
        accepted = 0
        for _ in range(_LESSONS):
            reads, counts = await self._judged(reader, self._keys)
            # What is proposed comes in steps, order before content: each is learnt from what the one before left.
            # What differed before it was accepted has been judged by now; only what comes from here on counts.
            learnt = await self._operator.accept_noise()
            if not learnt:
                break
            accepted += learnt
        self._out.print(
            f"mirror     : {counts['match']} of {reads} reads over REST and MCP agree on both sides, "
            f"{counts['mismatch']} do not; {accepted} noisy parts accepted"
        )
        return Check("with every read mirrored, both sides agree", counts["match"] == reads, _said_counts(counts))

    async def _apart(self, reader: Reader) -> Check:
        """Reads of a workspace that new does not know say nothing about new's answers, and are counted apart."""
        before = await self._operator.not_compared(_UNKNOWN)
        reads, counts = await self._judged(reader, [self._alone])
        unknown = await self._operator.not_compared(_UNKNOWN) - before
        self._out.print(f"apart      : {unknown} of {reads} reads of a workspace that new does not know are set apart")
        return Check(
            "a workspace that one side alone knows is set apart",
            unknown == counts["incomparable"] == reads,
            f"{unknown} {_UNKNOWN}; {_said_counts(counts)}",
        )

    async def _planted(self, reader: Reader) -> list[Check]:
        """A field of one answer of new is another: suspected within a second, a mismatch after both further reads."""
        key = self._keys[0]
        await self._change_on_new(key)
        before = await self._counts()
        begun = time.monotonic()
        await reader.rest(key, "file.read", {"path": NOTE})
        suspected_s = await self._when("suspected", before["suspected"], begun)
        mismatch_s = await self._when("mismatch", before["mismatch"], begun)
        found = [
            (group["operation"], difference["path"], difference["kind"], group["mismatch"])
            for group in await self._groups_with_a_mismatch("file.read")
            for difference in group["differences"]
        ]
        seen = ", ".join(f"{operation} {path} {kind}" for operation, path, kind, _ in found)
        self._out.print(
            f"planted    : another content on new is suspected after {_said(suspected_s)}, "
            f"a mismatch after {_said(mismatch_s)}: {seen}\n"
        )
        return [
            Check(
                f"a difference is suspected within {_SUSPECTED_S:g} s",
                suspected_s is not None and suspected_s <= _SUSPECTED_S,
                _said(suspected_s),
            ),
            Check(
                "it is a mismatch after two further reads, and shown with the field that differs",
                mismatch_s is not None
                and mismatch_s >= _REREAD_S
                and found == [("file.read", "$.content", "value", 1)],
                f"{_said(mismatch_s)}, {seen}",
            ),
        ]

    async def _change_on_new(self, key: Key) -> None:
        """Past the gateway: the same file with as many bytes, others. Of all answers about it one field differs."""
        agent, task = key
        fields = {"X-Agent-Id": agent, "X-Task-Id": task}
        content = _note(key).swapcase()
        async with httpx.AsyncClient(timeout=60.0, trust_env=False, headers=fields) as http:
            url = f"{self._runtime['new']}/v1/file/write"
            (await http.post(url, json={"path": NOTE, "content": content})).raise_for_status()

    async def _judged(self, reader: Reader, keys: list[Key]) -> tuple[int, Counts]:
        """Reads everything of some workspaces a few times; how many reads there were, and what became of them."""
        before = await self._counts()
        reads = 0
        for _ in range(_ROUNDS):
            reads += sum(await asyncio.gather(*(reader.read_all(key) for key in keys)))
        after = await self._settled(reads + sum(before.values()))
        return reads, {name: after[name] - before[name] for name in after}

    async def _when(self, name: str, before: int, begun: float) -> float | None:
        while (took := time.monotonic() - begun) < _MISMATCH_S:
            if (await self._counts())[name] > before:
                return took
            await asyncio.sleep(_POLL_S)
        return None

    async def _groups_with_a_mismatch(self, operation: str) -> list[dict[str, Any]]:
        """What is kept of an operation, once it is: evidence is written behind the counts."""
        for _ in itertools.repeat(None, int(_SETTLED_S / _POLL_S)):
            groups = await self._operator.comparisons(operation)
            if any(group["mismatch"] for group in groups):
                return groups
            await asyncio.sleep(_POLL_S)
        return []

    async def _settled(self, reads: int) -> Counts:
        """The counts, once every read is judged."""
        for _ in itertools.repeat(None, int(_SETTLED_S / _POLL_S)):
            counts = await self._counts()
            if sum(counts.values()) >= reads and not counts["suspected"]:
                return counts
            await asyncio.sleep(_POLL_S)
        raise DemoError(f"of {reads} mirrored reads only these were judged: {counts}")

    async def _counts(self) -> Counts:
        found = dict.fromkeys(("match", "suspected", "mismatch", "incomparable", "skipped"), 0)
        for operation in (await self._operator.status())["operations"].values():
            if operation["group"] == GROUP:
                for name in found:
                    found[name] += operation["comparisons"][name] or 0
        return found


def _note(key: Key) -> str:
    return f"of {'/'.join(key)}\n"


def _said(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


def _said_counts(counts: Counts) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"
