"""Keeps parts running: starts them, starts them again, replaces workers one at a time, leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.local.errors import StartError
from gateway.local.part import Part, PartHooks
from gateway.local.plan import PartSpec
from gateway.local.tasks import Tasks

_START_ATTEMPTS: Final = 3
_LAST_LINES: Final = 6

_log = structlog.get_logger("crossfade.supervisor")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor runs.

    Attributes:
        stages: Bottom first. All start at once, but for `PartSpec.needs`; they stop stage by stage from the top.
        rolling: Names of the parts that a rolling restart replaces, and on whose readiness that of the whole depends.
        on_change: Called when a part has become ready, with another process than before.
        counters: Given what a part reports to have counted.
    """

    stages: Sequence[Sequence[PartSpec]]
    rolling: Sequence[str]
    on_change: Callable[[], None]
    counters: Callable[[Mapping[str, Any]], None]


class Supervisor:
    """All parts of one machine.

    Attributes:
        parts: By name; during a rolling restart the one that serves new clients.
    """

    def __init__(self, plan: Plan) -> None:
        """Starts nothing; needs a running loop."""
        self._plan = plan
        self._tasks = Tasks()
        self._hooks = PartHooks(self._note_ready, plan.counters)
        self.parts = {spec.name: self._part(spec) for stage in plan.stages for spec in stage}
        self._beside: set[Part] = set()
        """Successors that are not ready yet, and predecessors that drain."""
        self._pids: dict[str, int] = {}
        self._is_stopping = False

    @property
    def is_ready(self) -> bool:
        """Whether every worker serves; where there are none, whether every part does its work."""
        names = self._plan.rolling or list(self.parts)
        return not self._is_stopping and all(self.parts[name].is_ready for name in names)

    def pids(self) -> dict[str, int]:
        """By name. While a part is down, that of its last process: its name never vanishes."""
        return {name: self._pids[name] for name in self.parts if name in self._pids}

    def status(self) -> dict[str, Any]:
        """Where every part stands, for JSON; crash loops show as `failures` in a row."""
        return {
            name: {
                "state": part.state.value,
                "pid": part.pid,
                "failures": part.failures,
                "restarts": part.restarts,
                "last_end": part.last_end or None,
            }
            for name, part in self.parts.items()
        }

    async def start(self) -> None:
        """Starts all parts and waits until each is ready.

        Raises:
            StartError: One ended by itself again and again.
        """
        starting = [self._tasks.start(self._start_one(part)) for part in self.parts.values()]
        failing = [self._tasks.start(part.until(_gives_up)) for part in self.parts.values()]
        waiting = set(starting)
        try:
            while waiting:
                done, _ = await asyncio.wait({*waiting, *failing}, return_when=asyncio.FIRST_COMPLETED)
                for part in self.parts.values():
                    if _gives_up(part):
                        raise StartError(f"{part.spec.name} does not start: {part.last_end}; {_last_words(part)}")
                waiting -= done
        finally:
            for task in (*starting, *failing):
                task.cancel()

    async def stop(self) -> None:
        """Stops all parts, from the top. Nothing is left."""
        self._is_stopping = True
        for stage in reversed(self._plan.stages):
            names = {spec.name for spec in stage}
            await _end([part for part in self._all() if part.spec.name in names])
        await self._tasks.aclose()

    def kill_all(self) -> None:
        """Ends all processes at once."""
        self._is_stopping = True
        for part in self._all():
            part.stop()
            part.kill()

    def send(self, message: dict[str, Any]) -> list[str]:
        """Sends to every part that has a channel; returns their names."""
        return [part.spec.name for part in self._all() if part.send(message)]

    async def restart(self) -> str | None:
        """Replaces the rolling parts one at a time: no client notices.

        Returns:
            Why it was given up, in words; None when every part was replaced.
        """
        for name in self._plan.rolling:
            why = "crossfade is stopping" if self._is_stopping else await self._replace(name)
            if why is not None:
                _log.error("rolling_restart_failed", name=name, why=why)
                return why
        _log.info("rolling_restart_done")
        return None

    def _part(self, spec: PartSpec) -> Part:
        return Part(spec, self._hooks, self._tasks)

    def _all(self) -> list[Part]:
        return [*self.parts.values(), *self._beside]

    def _note_ready(self, part: Part) -> None:
        if part.pid is not None and self.parts.get(part.spec.name) is part:
            self._pids[part.spec.name] = part.pid
            self._plan.on_change()

    async def _start_one(self, part: Part) -> None:
        for name in part.spec.needs:
            await self.parts[name].until(_is_ready)
        if not self._is_stopping:
            part.start()
        await part.until(_is_ready)

    async def _replace(self, name: str) -> str | None:
        """Puts a successor in a part's place once it is ready. Returns why that failed, or None."""
        before = self.parts[name]
        successor = self._part(before.spec)
        self._beside.add(successor)
        successor.start()
        await successor.until(lambda part: part.is_ready or part.failures > 0 or part.is_stopped)
        if not successor.is_ready:
            await _end([successor])
            self._beside.discard(successor)
            return f"{name} stays as it was, its successor does not start: {successor.last_end}"
        self.parts[name] = successor
        self._beside.discard(successor)
        self._beside.add(before)
        self._note_ready(successor)
        before.stop(linger=True)
        await before.until(_is_stopped)
        self._beside.discard(before)
        return None


def _last_words(part: Part) -> str:
    """What a part that does not start has said, or where."""
    file = part.spec.log_file
    if file is None:
        return "its messages stand above"
    try:
        lines = file.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"it says in {file}:", *lines])


def _is_ready(part: Part) -> bool:
    return part.is_ready


def _is_stopped(part: Part) -> bool:
    return part.is_stopped


def _gives_up(part: Part) -> bool:
    return part.failures >= _START_ATTEMPTS and not part.is_ready


async def _end(parts: Iterable[Part]) -> None:
    ending = list(parts)
    for part in ending:
        part.stop()
    for part in ending:
        await part.until(_is_stopped)
