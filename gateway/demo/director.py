"""The director: moves the share while the agents work, says what happens, and checks every claim."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gateway.core.model import Ppm
from gateway.core.side_choice import key_hash, share_limit
from gateway.demo.agent import Agent, Ledger
from gateway.demo.check import Check
from gateway.demo.operator import GROUP, Operator
from gateway.demo.repository import DemoError, head_branch, holds
from gateway.demo.shadow import ShadowAct

STEPS: Final = (0, 10, 50, 100)
KILL_S: Final = 1.0
"""No request may be started on new later than this after a kill."""
_POLL_S: Final = 0.05
_ROUND_LIMIT_S: Final = 300.0


class Director:
    """One performance."""

    def __init__(self, runtime: Mapping[str, Any], bare: Path, agents: int, tasks: int, out: Console) -> None:
        self._runtime = runtime
        self._bare = bare
        self._out = out
        self._ledger = Ledger()
        self._operator = Operator(runtime)
        names = [f"agent-{n:02}" for n in range(1, agents + 1)]
        work = [f"task-{n}" for n in range(1, tasks + 1)]
        self._agents = [Agent(name, work, runtime["gateway"], str(bare), self._ledger) for name in names]
        self._keys = [f"{name}/{task}" for name in names for task in work]
        self._shadow = ShadowAct(runtime, self._operator, bare, out)
        self._checks: list[Check] = []

    async def run(self) -> list[Check]:
        """Performs; returns what was checked.

        Raises:
            DemoError: It could not be performed to its end.
        """
        repository = f"{self._bare.name} ({head_branch(self._bare)})"
        self._out.print(f"{len(self._agents)} agents, {len(self._keys)} workspaces, repository {repository}")
        self._out.print(
            f"group {GROUP} says writes: none: a workspace that moves is unknown on its new side; "
            "its agent clones again, as real ones would\n"
        )
        self._checks += await self._shadow.run()
        stop = asyncio.Event()
        working = [asyncio.create_task(agent.work(stop), name=agent.name) for agent in self._agents]
        try:
            await self._operator.change_group(stage="live", percent=0)
            for percent in STEPS:
                await self._step(percent, working)
            await self._kill(working)
        finally:
            stop.set()
            await asyncio.gather(*working, return_exceptions=True)
            await self._operator.aclose()
        for task in working:
            if not task.cancelled() and task.exception() is not None:
                raise DemoError(f"{task.get_name()} broke down: {task.exception()!r}")
        self._check_work()
        return self._checks

    async def _step(self, percent: int, working: list[asyncio.Task[None]]) -> None:
        begun = time.monotonic()
        epoch = await self._operator.change_group(percent=percent)
        seen_after = await self._everywhere(epoch, begun)
        sides = await self._sides_after(time.monotonic(), working)
        on_new = {key for key, seen in sides.items() if seen == {"new"}}
        wanted = {key for key in self._keys if _goes_to_new(f"{self._runtime['migration']}:{GROUP}", key, percent)}
        mixed = [key for key, seen in sides.items() if len(seen) != 1]
        share = 100 * len(on_new) / len(self._keys)
        self._out.print(
            f"share {percent:>3} %: {len(on_new)} of {len(self._keys)} workspaces on new ({share:.1f} %), "
            f"status shows it after {seen_after * 1000:.0f} ms; {len(self._ledger.calls)} calls so far"
        )
        self._checks.append(
            Check(
                f"at {percent} % exactly the workspaces below the share are on new, each on one side",
                on_new == wanted and not mixed,
                f"{len(on_new)} on new, {len(wanted)} below the share, {len(mixed)} on both",
            )
        )

    async def _kill(self, working: list[asyncio.Task[None]]) -> None:
        begun = time.monotonic()
        epoch = await self._operator.kill()
        seen_after = await self._everywhere(epoch, begun)
        await self._sides_after(begun + KILL_S, working)
        late = [call for call in self._ledger.calls if call.side == "new" and call.began > begun + KILL_S]
        last = max((call.began - begun for call in self._ledger.calls if call.side == "new"), default=0.0)
        self._out.print(
            f"kill       : status shows it after {seen_after * 1000:.0f} ms; "
            f"the last call on new began {max(last, 0.0) * 1000:.0f} ms after it"
        )
        claim = f"after the kill no call began on new later than {KILL_S:g} s"
        self._checks.append(Check(claim, not late, f"{len(late)} late calls"))

    async def _everywhere(self, epoch: int, begun: float) -> float:
        """Waits until every worker decides by an epoch; returns how long that took, in seconds."""
        async with asyncio.timeout(10):
            while True:
                workers = (await self._operator.status())["workers"]
                if workers and all((worker["epoch"] or 0) >= epoch for worker in workers):
                    return time.monotonic() - begun
                await asyncio.sleep(_POLL_S)

    async def _sides_after(self, moment: float, working: list[asyncio.Task[None]]) -> dict[str, set[str]]:
        """Waits until every workspace finished a round that began after a moment; the sides that answered since."""
        deadline = time.monotonic() + _ROUND_LIMIT_S
        while not all(self._ledger.done.get(key, 0.0) > moment for key in self._keys):
            broken = next((task for task in working if task.done()), None)
            if broken is not None:
                raise DemoError(f"{broken.get_name()} broke down: {broken.exception()!r}")
            if time.monotonic() > deadline:
                raise DemoError(f"the agents did not get on; failed calls: {self._ledger.failed[:3]}")
            await asyncio.sleep(_POLL_S)
        sides: dict[str, set[str]] = {key: set() for key in self._keys}
        for call in self._ledger.calls:
            if call.began > moment:
                sides[call.key].add(call.side)
        return sides

    def _check_work(self) -> None:
        ledger = self._ledger
        missing = [item for item in ledger.pushed if not holds(self._bare, item.branch, item.commit)]
        first = f": {ledger.failed[0]}" if ledger.failed else ""
        self._checks += [
            Check("no call failed but the expected ones", not ledger.failed, f"{len(ledger.failed)} failed{first}"),
            Check(
                "every pushed commit is in the repository",
                bool(ledger.pushed) and not missing,
                f"{len(ledger.pushed)} pushed, {len(missing)} missing",
            ),
        ]
        behind = sum(call.code != "ok" for call in ledger.calls)
        self._out.print(
            f"work       : {len(ledger.calls)} calls, {len(ledger.pushed)} commits pushed; "
            f"{behind} calls met a workspace left behind on another side,\n"
            f"             {ledger.fresh} pieces of work were begun again for it\n"
        )


def _goes_to_new(salt: str, key: str, percent: int) -> bool:
    return key_hash(salt, key) < share_limit(Ppm(percent * 10_000))


async def wait_for_runtime(data_dir: Path, is_alive: Callable[[], bool], limit_s: float = 60.0) -> Path:
    """Waits until `crossfade up` has written its runtime.json.

    Raises:
        DemoError: It ended, or took too long.
    """
    path = data_dir / "runtime.json"
    deadline = time.monotonic() + limit_s
    while not os.path.exists(path):  # noqa: ASYNC240, PTH110 - another process writes it
        if not is_alive() or time.monotonic() > deadline:
            raise DemoError("crossfade up did not start; its messages above say why")
        await asyncio.sleep(_POLL_S)
    return path
