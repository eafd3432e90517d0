"""Follows the audit for each target and tells it, in order, again until it is taken: at least once, never in the way.

Each target has a task and a place in the audit of its own, so one that hangs delays nobody else. Where several control
processes run, one of them tells a target at a time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Protocol

import structlog

from gateway.core.feed_status import FeedState
from gateway.core.notice import Notice, NoticeKind, NoticeTarget, notice_of
from gateway.notify.delivery import NotDeliveredError, deliver

LOOK_S: Final = 1.0
STALE_AFTER_S: Final = 10.0
_OWN: Final = 20
_FIRST_S: Final = 1.0
_LAST_S: Final = 60.0
GIVE_UP_S: Final = 3600.0

_log = structlog.get_logger("crossfade.notify")


class UnreadableError(Exception):
    """The audit cannot be read now."""


class Entries(Protocol):
    """The audit, as a target reads it. Every method may raise `UnreadableError`."""

    async def following(self, target: str) -> list[Mapping[str, Any]]:
        """Entries behind the target's place, oldest first, at most some; each with its `id`.

        A target that has no place yet gets one at the end: it is not told what was before it.
        """
        ...

    async def passed(self, target: str, entry: str) -> None:
        """The target's place is behind this entry now."""
        ...

    async def claim(self, target: str) -> bool:
        """Whether it is this process that tells the target, for the next minutes."""
        ...

    async def let_go(self, targets: list[str]) -> None:
        """Another process may tell these at once."""
        ...

    async def evidence(self, name: str) -> Mapping[str, Any] | None:
        """The record of a trip."""
        ...


Deliver = Callable[[NoticeTarget, Notice], Awaitable[None]]


@dataclass(slots=True)
class _State:
    """Of one target.

    Attributes:
        own: Notices that this process makes itself; they stand in no audit.
        failing: Why the last attempt failed; None: it did not.
        wake: Something may be there.
    """

    own: deque[Notice]
    failing: str | None
    wake: asyncio.Event


class Outbox:
    """Tells all targets of one migration."""

    def __init__(
        self,
        migration: str,
        entries: Entries,
        feed_state: Callable[[], FeedState],
        tell: Deliver = deliver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tells nobody yet.

        Args:
            migration: Its name.
            entries: What happened.
            feed_state: How this process's view of the policy stands.
            tell: One attempt.
            clock: Monotonic seconds.
        """
        self._migration = migration
        self._entries = entries
        self._feed_state = feed_state
        self._tell = tell
        self._clock = clock
        self._states: dict[NoticeTarget, _State] = {}
        self._tasks: dict[NoticeTarget, asyncio.Task[None]] = {}
        self._stale_since: float | None = None
        self._has_told_stale = False
        self.results: Counter[tuple[str, str]] = Counter()
        """By kind of target and `delivered`, `failed` (an attempt), `given_up`, `dropped`."""

    def use(self, targets: Sequence[NoticeTarget]) -> None:
        """Tells these from now on, and no others. Needs a running loop."""
        for gone in self._tasks.keys() - set(targets):
            self._tasks.pop(gone).cancel()
            del self._states[gone]
        for target in targets:
            if target not in self._tasks:
                self._states[target] = _State(deque(maxlen=_OWN), None, asyncio.Event())
                self._tasks[target] = asyncio.create_task(self._serve(target, self._states[target]))

    def wake(self) -> None:
        """Something has happened: looks without waiting."""
        for state in self._states.values():
            state.wake.set()

    def troubles(self) -> list[str]:
        """Targets that cannot be told, for status."""
        return [
            f"notifications do not arrive: {label_of(target)}: {state.failing}"
            for target, state in self._states.items()
            if state.failing is not None
        ]

    async def watch(self) -> None:
        """Tells that Redis is gone, and that it is back: this alone stands in no audit."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(self._clock())

    def look(self, now: float) -> None:
        """One look at the feed; see `watch`."""
        is_stale = self._feed_state() is FeedState.STALE
        if not is_stale:
            self._stale_since = None
            if self._has_told_stale:
                self._has_told_stale = False
                self._say("is read again")
            return
        if self._stale_since is None:
            self._stale_since = now
        if not self._has_told_stale and now - self._stale_since >= STALE_AFTER_S:
            self._has_told_stale = True
            self._say("has not been read for a while: shares stay as they are; kills by file still work")

    def _say(self, what: str) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        notice = Notice(f"stale-{at}", NoticeKind.STALE, self._migration, at, "policy", "control", f"it {what}")
        for target, state in self._states.items():
            if NoticeKind.STALE in target.kinds:
                state.own.append(notice)
                state.wake.set()

    async def aclose(self) -> None:
        """Tells nobody any more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        with suppress(UnreadableError):
            await self._entries.let_go([name_of(target) for target in self._tasks])
        self._tasks.clear()

    # ---------------------------------------------------------------------------------------------------------------

    async def _serve(self, target: NoticeTarget, state: _State) -> None:
        while True:
            state.wake.clear()
            try:
                await self._serve_once(target, state)
            except UnreadableError:
                # Redis is away: what happens meanwhile is in the audit when it is back.
                pass
            except Exception:
                _log.exception("notify_failed", target=label_of(target))
            # Not wait_for: it loses a cancellation that comes at the moment of waking.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await state.wake.wait()

    async def _serve_once(self, target: NoticeTarget, state: _State) -> None:
        while state.own:
            await self._insist(target, state, state.own[0])
            state.own.popleft()
        name = name_of(target)
        if not await self._entries.claim(name):
            return
        for entry in await self._entries.following(name):
            notice = notice_of(self._migration, entry)
            if notice is not None and notice.kind in target.kinds:
                record = entry.get("evidence")
                if isinstance(record, str):
                    notice = replace(notice, evidence=await self._entries.evidence(record))
                await self._insist(target, state, notice)
            await self._entries.passed(name, str(entry["id"]))

    async def _insist(self, target: NoticeTarget, state: _State, notice: Notice) -> None:
        """Tells until it is taken; gives up when that is pointless, or after an hour."""
        began, pause_s = self._clock(), _FIRST_S
        while True:
            try:
                await self._tell(target, notice)
            except NotDeliveredError as error:
                self.results[target.kind.value, "failed"] += 1
                state.failing = str(error)
                if error.is_final or self._clock() - began > GIVE_UP_S:
                    self.results[target.kind.value, "given_up"] += 1
                    _log.error("notice_given_up", target=label_of(target), notice=notice.id, why=str(error))
                    return
                _log.warning("notice_failed", target=label_of(target), notice=notice.id, why=str(error))
                wait_s = error.retry_after_s or random.uniform(pause_s / 2, pause_s)  # noqa: S311 - spreads load
                await asyncio.sleep(wait_s)
                pause_s = min(2 * pause_s, _LAST_S)
                with suppress(UnreadableError):
                    await self._entries.claim(name_of(target))
            else:
                self.results[target.kind.value, "delivered"] += 1
                state.failing = None
                return


def name_of(target: NoticeTarget) -> str:
    """Names a target's place in the audit; the same over restarts, and after its URL was replaced in its file."""
    content = "\0".join([target.kind, target.url_file or "", *target.argv])
    return sha256(content.encode()).hexdigest()[:16]


def label_of(target: NoticeTarget) -> str:
    """Names a target for people: never its URL."""
    return f"{target.kind} {target.url_file or target.argv[0]}"
