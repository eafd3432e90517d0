"""Active health checks: every instance of a side is asked, now and then, whether it is well.

    well   --FALL checks in a row fail-->     unwell   (gets no new exchange while another instance is well)
    unwell --RISE checks in a row succeed-->  well

A check is a GET of the configured path on a connection of its own; it succeeds with an answer of status 2xx in time.
Whoever chooses an instance looks at `unwell`; it must not know why an instance is in there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import structlog

from gateway.core.model import Deadlines, ErrorCode, HealthProbe, SideDefinition
from gateway.errors import UpstreamError
from gateway.ports import UpstreamRequest
from gateway.upstream.call import Call
from gateway.upstream.dial import Dialer
from gateway.upstream.framing import write_request_head
from gateway.upstream.limits import UpstreamLimits
from gateway.upstream.pool import Pool
from gateway.upstream.response import Response
from gateway.upstream.stats import DropReason

FALL: Final = 3
RISE: Final = 2
_PATIENCE_S: Final = 2.0
"""How long a check may take at least; longer where the interval is."""
_JITTER: Final = 0.1
"""Checks of several processes shall not come as one."""
_ANSWER_BYTES: Final = 64 * 1024

_log = structlog.get_logger("crossfade.upstream")


@dataclass(slots=True)
class _Record:
    is_well: bool = True
    contrary: int = 0
    """Checks in a row that spoke against `is_well`."""


class Wellness:
    """What checks have said of each instance. Pure.

    Attributes:
        unwell: Indices of instances that shall get nothing new while others can.
    """

    __slots__ = ("_records", "unwell")

    def __init__(self, instances: int) -> None:
        """All well: an instance is not kept waiting for its first check."""
        self._records = [_Record() for _ in range(instances)]
        self.unwell: frozenset[int] = frozenset()

    def note(self, index: int, *, is_good: bool) -> bool:
        """Takes the outcome of a check. True when it changed the state of the instance."""
        record = self._records[index]
        if is_good == record.is_well:
            record.contrary = 0
            return False
        record.contrary += 1
        if record.contrary < (FALL if record.is_well else RISE):
            return False
        record.is_well = is_good
        record.contrary = 0
        self.unwell = frozenset(number for number, each in enumerate(self._records) if not each.is_well)
        return True


class HealthChecks:
    """Runs the checks of one side.

    Attributes:
        wellness: What they said.
        loop: They run on.
        opening: Checks that wait for a connection.
        uploads: None ever.
    """

    def __init__(
        self, definition: SideDefinition, dialers: Sequence[Dialer], limits: UpstreamLimits, random: Random
    ) -> None:
        """Asks nothing yet; needs a running loop.

        Args:
            definition: Of the side.
            dialers: Of its instances, in their order.
            limits: Bounds on answers.
            random: Source of the jitter.
        """
        self.wellness = Wellness(len(definition.instances))
        self.loop = asyncio.get_running_loop()
        self.opening: set[asyncio.Task[None]] = set()
        self.uploads: set[asyncio.Task[None]] = set()
        self._definition = definition
        self._random = random
        self._limits = limits
        # A place of its own: a check that waits behind a crowd of requests would take a busy instance for a dead one.
        own = replace(limits, connections=1, waiting=1)
        drops: Counter[DropReason] = Counter()
        self._pools = [
            Pool(instance.name, dialer, own, drops)
            for instance, dialer in zip(definition.instances, dialers, strict=True)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins, where the side is to be checked; does nothing when it has begun."""
        probe = self._definition.health
        if probe is not None and not self._tasks:
            self._tasks = [self.loop.create_task(self._follow(index, probe)) for index in range(len(self._pools))]

    def stop(self) -> None:
        """Asks no more."""
        for task in self._tasks:
            task.cancel()

    def retire(self) -> None:
        """Asks no more and keeps no connection."""
        self.stop()
        for pool in self._pools:
            pool.retire()

    async def aclose(self) -> None:
        """Stops and closes its connections."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pool in self._pools:
            await pool.aclose()
        if self.opening:
            await asyncio.wait(self.opening)

    # -- for calls --------------------------------------------------------------------------------------------------

    def note_answer(self, index: int) -> None:
        """An instance answered; whether well, its status says."""

    def note_failure(self, index: int, error: UpstreamError) -> None:
        """An instance did not answer; the check hears it, too."""

    def note_retry(self) -> None:
        """A kept-alive connection was dead; no fault of the instance."""

    # ---------------------------------------------------------------------------------------------------------------

    async def _follow(self, index: int, probe: HealthProbe) -> None:
        while True:
            why = await self._check(index, probe)
            if why is not None and self.wellness.note(index, is_good=not why):
                self._tell(index, why)
            await asyncio.sleep(probe.interval_s * (1 + _JITTER * (2 * self._random.random() - 1)))

    async def _check(self, index: int, probe: HealthProbe) -> str | None:
        """Asks once; returns what is wrong, "" for nothing, None where it could not be told."""
        instance = self._definition.instances[index]
        host = self._definition.host or instance.authority
        patience_s = max(probe.interval_s, _PATIENCE_S)
        deadlines = Deadlines(patience_s, patience_s, patience_s, patience_s, patience_s)
        headers = [(b"host", host.encode()), (b"user-agent", b"crossfade-health")]
        request = UpstreamRequest(b"GET", probe.path.encode(), headers, None, deadlines, may_retry=True)
        response = Response(self._limits.body_buffer_bytes, self.loop)
        try:
            call = Call(self, self._pools[index], index, request, write_request_head(request), response)
            call.begin()
            response.attach(call)
            await response.head
            taken = 0
            while taken <= _ANSWER_BYTES and (piece := await response.read()):
                taken += len(piece)
        except UpstreamError as error:
            return None if error.code is ErrorCode.OVERLOADED else str(error)
        finally:
            response.close()
        return "" if response.status // 100 == 2 else f"status {response.status}"

    def _tell(self, index: int, why: str) -> None:
        side, name = str(self._definition.side), self._definition.instances[index].name
        if why:
            _log.warning("instance_unwell", side=side, instance=name, why=why)
        else:
            _log.info("instance_well", side=side, instance=name)
