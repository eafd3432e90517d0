"""The first act: both sides hold the same workspaces, every read is mirrored, and a change on one side comes to light.

Writes are not copied yet, so the workspaces are copied by the services' own export and import before anything is
compared.
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
from gateway.demo.repository import DemoError

_WORKSPACES: Final = 3
_ROUNDS: Final = 4
_SUSPECTED_S: Final = 1.0
_MISMATCH_S: Final = 25.0
_SETTLED_S: Final = 60.0
_POLL_S: Final = 0.05
_PLANTED: Final = "planted.txt"
_READS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("git/status", {}),
    ("git/branch", {}),
    ("git/log", {"max_count": 5}),
    ("git/diff", {}),
    ("git/show", {"revision": "HEAD"}),
    ("file/list", {}),
)


class ShadowAct:
    """Mirrors reads of a few workspaces."""

    def __init__(self, runtime: Mapping[str, Any], operator: Operator, bare: Path, out: Console) -> None:
        self._runtime = runtime
        self._operator = operator
        self._bare = bare
        self._out = out
        self._keys = [("mirror", f"task-{n}") for n in range(_WORKSPACES)]
        token = (Path(runtime["token_file"]).parent / "internal.token").read_text().strip()
        self._internal = {"Crossfade-Auth": token}
        self._http = httpx.AsyncClient(base_url=runtime["gateway"], timeout=60.0, trust_env=False)

    async def run(self) -> list[Check]:
        """Performs; returns what was checked, and leaves the group `off`."""
        try:
            for key in self._keys:
                await self._ask(key, "git/clone", {"url": str(self._bare)})
                await self._ask(key, "file/write", {"path": "note.txt", "content": f"of {'/'.join(key)}\n"})
            await self._copy()
            await self._operator.change_group(stage="shadow_read", mirror_percent=100)
            reads = await self._read(_ROUNDS)
            checks = [await self._clean(reads)]
            checks += await self._planted()
            await self._operator.change_group(stage="off", mirror_percent=0)
            return checks
        finally:
            await self._http.aclose()

    async def _copy(self) -> None:
        """Old's workspaces to new, as a backfill would."""
        async with httpx.AsyncClient(timeout=60.0, trust_env=False, headers=self._internal) as http:
            for agent, task in self._keys:
                place = f"/v1/workspaces/{agent}/{task}"
                bundle = await http.get(f"{self._runtime['old']}{place}/export")
                fields = {"Crossfade-Workspace": bundle.headers.get("crossfade-workspace", "")}
                taken = await http.put(f"{self._runtime['new']}{place}/import", content=bundle.content, headers=fields)
                if bundle.is_error or taken.is_error:
                    raise DemoError(f"{agent}/{task} could not be copied: {bundle.status_code}, {taken.status_code}")

    async def _read(self, rounds: int) -> int:
        """Every read of every workspace, so many times; how many there were."""
        for _ in range(rounds):
            await asyncio.gather(*(self._reads(key) for key in self._keys))
        return rounds * len(self._keys) * len(_READS)

    async def _reads(self, key: tuple[str, str]) -> None:
        for path, arguments in _READS:
            await self._ask(key, path, arguments)

    async def _clean(self, reads: int) -> Check:
        """All that was read agrees, once what is proposed is accepted."""
        counts = await self._settled(reads)
        accepted = await self._operator.accept_noise()
        if accepted:
            # What differed before it was accepted has been judged by now; only what comes from here on counts.
            before = counts
            reads = await self._read(_ROUNDS)
            after = await self._settled(reads + sum(before.values()))
            counts = {name: after[name] - before[name] for name in after}
        self._out.print(
            f"mirror     : {counts['match']} of {reads} reads agree on both sides, {counts['mismatch']} do not; "
            f"{accepted} noisy parts accepted"
        )
        return Check(
            "with every read mirrored, both sides agree",
            counts["match"] == reads,
            ", ".join(f"{count} {name}" for name, count in counts.items() if count),
        )

    async def _planted(self) -> list[Check]:
        """A file that only new has is suspected within a second, and a mismatch after both further reads."""
        key = self._keys[0]
        fields = {"X-Agent-Id": key[0], "X-Task-Id": key[1]}
        async with httpx.AsyncClient(timeout=60.0, trust_env=False, headers=fields) as http:
            url = f"{self._runtime['new']}/v1/file/write"
            (await http.post(url, json={"path": _PLANTED, "content": "x"})).raise_for_status()
        before = await self._counts()
        begun = time.monotonic()
        await self._ask(key, "git/status", {})
        suspected_s = await self._when("suspected", before["suspected"], begun, _MISMATCH_S)
        mismatch_s = await self._when("mismatch", before["mismatch"], begun, _MISMATCH_S)
        groups = await self._operator.comparisons("git.status")
        paths = sorted({found["path"] for group in groups for found in group["differences"]})
        self._out.print(
            f"planted    : a file on new alone is suspected after {_said(suspected_s)}, "
            f"a mismatch after {_said(mismatch_s)}: {', '.join(paths)}\n"
        )
        return [
            Check(
                f"a difference is suspected within {_SUSPECTED_S:g} s",
                suspected_s is not None and suspected_s <= _SUSPECTED_S,
                _said(suspected_s),
            ),
            Check(
                "it is a mismatch after two further reads, and shown with its path",
                mismatch_s is not None and any(path.startswith("$.untracked") for path in paths),
                f"{_said(mismatch_s)}, {', '.join(paths)}",
            ),
        ]

    async def _when(self, name: str, before: int, begun: float, limit_s: float) -> float | None:
        while (took := time.monotonic() - begun) < limit_s:
            if (await self._counts())[name] > before:
                return took
            await asyncio.sleep(_POLL_S)
        return None

    async def _settled(self, reads: int) -> dict[str, int]:
        """The counts, once every read is judged."""
        for _ in itertools.repeat(None, int(_SETTLED_S / _POLL_S)):
            counts = await self._counts()
            if sum(counts.values()) >= reads and not counts["suspected"]:
                return counts
            await asyncio.sleep(_POLL_S)
        raise DemoError(f"of {reads} mirrored reads only these were judged: {counts}")

    async def _counts(self) -> dict[str, int]:
        found = dict.fromkeys(("match", "suspected", "mismatch", "incomparable", "skipped"), 0)
        for operation in (await self._operator.status())["operations"].values():
            if operation["group"] == GROUP:
                for name in found:
                    found[name] += operation["comparisons"][name] or 0
        return found

    async def _ask(self, key: tuple[str, str], path: str, arguments: Mapping[str, Any]) -> None:
        fields = {"X-Agent-Id": key[0], "X-Task-Id": key[1]}
        answer = await self._http.post(f"/v1/{path}", json=dict(arguments), headers=fields)
        if answer.is_error:
            raise DemoError(f"{path} of {'/'.join(key)}: {answer.status_code} {answer.text[:200]}")


def _said(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"
