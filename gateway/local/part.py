"""One part over all its processes: performs what the table of `part_state` says."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.local.part_state import PartEffect, PartEvent, PartState, delay_before, step
from gateway.local.plan import PartSpec, Probe
from gateway.local.process import PartProcess, spawn
from gateway.local.tasks import Tasks

_PROBE_S: Final = 0.02
_LAST_WORDS_S: Final = 1.0
"""How long the channel of an ended process is still read."""
_STEADY_S: Final = 10.0
"""Who was ready for so long and ends has not failed in a row."""
_SHOWN_CHARACTERS: Final = 32

_log = structlog.get_logger("crossfade.supervisor")


@dataclass(frozen=True, slots=True)
class PartHooks:
    """Whom a part tells.

    Attributes:
        ready: It became ready.
        counters: It reported what it counted.
    """

    ready: Callable[[Part], None]
    counters: Callable[[Mapping[str, Any]], None]


class Part:
    """A part that is started, watched, started again and stopped.

    Attributes:
        spec: What it is.
        state: Where it stands.
        failures: How often in a row it ended by itself.
        restarts: How often it ended by itself altogether.
        last_end: How its last process ended, in words; empty while none has.
    """

    def __init__(self, spec: PartSpec, hooks: PartHooks, tasks: Tasks) -> None:
        """Starts nothing."""
        self.spec = spec
        self.state = PartState.STOPPED
        self.failures = 0
        self.restarts = 0
        self.last_end = ""
        self._hooks = hooks
        self._tasks = tasks
        self._process: PartProcess | None = None
        self._ready_at: float | None = None
        self._linger = False
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Part {self.spec.name} {self.state} pid={self.pid} failures={self.failures}>"

    @property
    def pid(self) -> int | None:
        """Of its process, if one runs."""
        return self._process.pid if self._process is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether it does its work."""
        return self.state is PartState.READY

    @property
    def is_stopped(self) -> bool:
        """Whether it has no process and will get none."""
        return self.state is PartState.STOPPED

    def start(self) -> None:
        """Starts it."""
        self._handle(PartEvent.START)

    def stop(self, *, linger: bool = False) -> None:
        """Asks it to end for good.

        Args:
            linger: A successor has taken over.
        """
        self._linger = linger
        self._handle(PartEvent.STOP)

    def kill(self) -> None:
        """Ends its process at once; a part that was not told to stop gets another."""
        if self._process is not None:
            self._process.kill()

    def send(self, message: dict[str, Any]) -> bool:
        """Sends on the channel. False when it has none."""
        return self._process is not None and self._process.send(message)

    async def until(self, condition: Callable[[Part], bool]) -> None:
        """Waits until a condition, which is looked at after each change of state, is true."""
        while not condition(self):
            await self._changed.wait()

    def _handle(self, event: PartEvent) -> None:
        before = self.state
        self.state, effect = step(before, event)
        if self.state is not before:
            self._set_timer(None, PartEvent.LATE)
        self._perform(effect)
        if self.state is not before:
            self._changed.set()
            self._changed = asyncio.Event()

    def _perform(self, effect: PartEffect) -> None:
        match effect:
            case PartEffect.SPAWN:
                self._set_timer(self.spec.start_limit_s, PartEvent.LATE)
                self._tasks.start(self._live())
            case PartEffect.ANNOUNCE:
                self._ready_at = asyncio.get_running_loop().time()
                _log.info("part_ready", name=self.spec.name, pid=self.pid)
                self._hooks.ready(self)
            case PartEffect.DELAY:
                self._back_off()
            case PartEffect.ASK_TO_END:
                self._set_timer(self.spec.stop_limit_s, PartEvent.LATE)
                if self._process is not None:
                    self._process.ask_to_end(linger=self._linger)
            case PartEffect.KILL:
                _log.warning("part_late", name=self.spec.name, pid=self.pid, state=self.state.value)
                self.kill()
            case PartEffect.NOTHING:
                pass

    def _back_off(self) -> None:
        now = asyncio.get_running_loop().time()
        was_steady = self._ready_at is not None and now - self._ready_at >= _STEADY_S
        self._ready_at = None
        self.failures = 1 if was_steady else self.failures + 1
        self.restarts += 1
        delay_s = delay_before(self.failures)
        _log.warning("part_ended", name=self.spec.name, how=self.last_end, failures=self.failures, again_in_s=delay_s)
        self._set_timer(delay_s, PartEvent.DELAY_OVER)

    def _set_timer(self, seconds: float | None, event: PartEvent) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._handle, event) if seconds is not None else None

    async def _live(self) -> None:
        """One process from its start to its end."""
        try:
            process = await spawn(self.spec)
        except OSError as exc:
            self.last_end = f"it cannot be started: {exc.strerror}"
            self._handle(PartEvent.ENDED)
            return
        self._process = process
        if self.state is PartState.STOPPING:
            process.ask_to_end(linger=False)
        tasks = [self._tasks.start(self._probe(probe))] if (probe := self.spec.probe) is not None else []
        try:
            await self._attend(process)
        finally:
            for task in tasks:
                task.cancel()
            process.close()
            self._process = None
        self._handle(PartEvent.ENDED)

    async def _attend(self, process: PartProcess) -> None:
        listening = self._tasks.start(self._listen(process))
        try:
            self.last_end = _in_words(await process.process.wait())
            await asyncio.wait([listening], timeout=_LAST_WORDS_S)
        finally:
            listening.cancel()

    async def _listen(self, process: PartProcess) -> None:
        if process.channel is None:
            return
        async for message in process.channel.messages():
            match message:
                case {"type": "ready"}:
                    self._handle(PartEvent.SAID_READY)
                case {"type": "counters", "counters": dict(counters)}:
                    self._hooks.counters(counters)
                case _:
                    kind = str(message.get("type"))[:_SHOWN_CHARACTERS]
                    _log.warning("message_unknown", name=self.spec.name, type=kind)

    async def _probe(self, is_ready: Probe) -> None:
        while not await is_ready():  # noqa: ASYNC110 - another process tells nobody when it is ready
            await asyncio.sleep(_PROBE_S)
        self._handle(PartEvent.SAID_READY)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
