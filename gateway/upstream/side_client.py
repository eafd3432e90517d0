"""`SideUpstream`: one side of the migration as the data plane sees it.

Owns the instances: which one gets a request, and what a failure says about it. It must not know operations, keys'
meaning or stages. The rest of the package does the parts; read this one first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence, Set
from random import Random

from gateway.core.model import Balance, ErrorCode, SideDefinition
from gateway.errors import Phase, UpstreamError
from gateway.ports import AnswerReceiver, InterimListener, UpstreamRequest
from gateway.upstream.balance import Rendezvous, choose_less_loaded
from gateway.upstream.call import Call
from gateway.upstream.dial import Dialer, verifying_tls
from gateway.upstream.ejection import Ejection
from gateway.upstream.framing import write_request_head
from gateway.upstream.health import HealthChecks
from gateway.upstream.limits import UpstreamLimits
from gateway.upstream.pool import Pool
from gateway.upstream.response import Response
from gateway.upstream.stats import DropReason, UpstreamStats

_DEFAULT_LIMITS = UpstreamLimits()


class SideUpstream:
    """Implements `ports.Upstream` for one side.

    Attributes:
        side: Which one.
        loop: It runs on.
        opening: Calls that wait for a connection.
        uploads: Streamed request bodies on their way.
    """

    def __init__(
        self, definition: SideDefinition, limits: UpstreamLimits = _DEFAULT_LIMITS, random: Random | None = None
    ) -> None:
        """Connects to nothing yet; needs a running loop.

        Args:
            definition: Instances, balance, TLS authority.
            limits: Bounds.
            random: Source of the draws of `balance: p2c`.

        Raises:
            OSError: The side's `ca_file` cannot be read or holds no certificate.
        """
        self.side = definition.side
        self._limits = limits
        self._random = random or Random()  # noqa: S311 -- spreads load, guards nothing
        self.loop = asyncio.get_running_loop()
        self._drops: Counter[DropReason] = Counter()
        self._retries = 0
        self.uploads: set[asyncio.Task[None]] = set()
        self.opening: set[asyncio.Task[None]] = set()
        self._ejection = Ejection(len(definition.instances), limits.ejection)
        self._by_key = definition.balance is Balance.KEY
        self._rendezvous = Rendezvous([instance.name for instance in definition.instances])
        tls = verifying_tls(definition.ca_file) if any(i.tls for i in definition.instances) else None
        self._dialers = [Dialer(instance, tls, limits.resolve_s) for instance in definition.instances]
        self._pools = [
            Pool(instance.name, dialer, limits, self._drops)
            for instance, dialer in zip(definition.instances, self._dialers, strict=True)
        ]
        self._health = HealthChecks(definition, self._dialers, limits, self._random)
        self._wellness = self._health.wellness

    def __repr__(self) -> str:
        return f"<SideUpstream {self.side} {self._pools}>"

    async def start(self) -> None:
        """Looks up the instances' host names, so that the first requests need not wait for it; begins health checks.

        A name without an address is no error here: it is looked up again, and its exchanges fail until it has one.
        """
        await asyncio.gather(*(dialer.start() for dialer in self._dialers), return_exceptions=True)
        self._health.start()

    def send(self, request: UpstreamRequest, key: str | None, receiver: AnswerReceiver) -> Call:
        """Sends a request without waiting for anything. See `ports.Upstream.send`.

        Raises:
            UpstreamError: Nothing was sent.
        """
        head = write_request_head(request)
        index = self._choose(key)
        is_bound = len(self._pools) == 1 or (self._by_key and key is not None)
        another = None if is_bound else self._choose_another
        call = Call(self, self._pools[index], index, request, head, receiver, another)
        call.begin()
        return call

    async def exchange(
        self, request: UpstreamRequest, key: str | None, interim: InterimListener | None = None
    ) -> Response:
        """Sends a request and returns when the head of its answer is there. See `ports.Upstream.exchange`.

        Raises:
            UpstreamError: No usable answer came. `bad_request`, besides the codes listed there: the request cannot be
                put on the wire, or its body did not have the declared length. `request_timeout`: the time for the whole
                exchange passed while the client was waited for.
        """
        response = Response(self._limits.body_buffer_bytes, self.loop, interim)
        call = self.send(request, key, response)
        response.attach(call)
        try:
            await response.head
        except asyncio.CancelledError:
            response.close()
            raise
        response.instance = call.instance
        return response

    def retire(self) -> None:
        """Lets running exchanges finish and keeps no connection after them: a reload put another client in place."""
        self._health.retire()
        for pool in self._pools:
            pool.retire()

    async def aclose(self) -> None:
        """Ends everything at once; running exchanges fail."""
        await self._health.aclose()
        for pool in self._pools:
            await pool.aclose()
        for task in self.opening:
            task.cancel()
        if running := self.opening | self.uploads:
            await asyncio.wait(running)

    def stats(self) -> UpstreamStats:
        """The numbers of now and since the start."""
        pools = self._pools
        return UpstreamStats(
            connecting=sum(pool.connecting for pool in pools),
            idle=sum(pool.idle for pool in pools),
            in_use=sum(pool.in_use for pool in pools),
            waiting=sum(pool.waiting for pool in pools),
            retries=self._retries,
            ejected=self._ejection.count_out(self.loop.time()),
            ejections=self._ejection.ejections,
            unwell=len(self._wellness.unwell),
            drops=dict(self._drops),
        )

    # ---------------------------------------------------------------------------------------------------------------

    # -- for calls --------------------------------------------------------------------------------------------------

    def note_answer(self, index: int) -> None:
        """An instance answered."""
        self._ejection.note_answer(index)

    def note_failure(self, index: int, error: UpstreamError) -> None:
        """An instance did not answer; only the failures that say that nobody is there speak against it."""
        is_absence = error.code is ErrorCode.UPSTREAM_REFUSED or (
            error.code is ErrorCode.UPSTREAM_TIMEOUT
            and error.phase in (Phase.CONNECT, Phase.SEND, Phase.FIRST_BYTE, Phase.TOTAL)
        )
        if is_absence:
            self._ejection.note_failure(index, self.loop.time())

    def note_retry(self) -> None:
        """A request is sent a second time."""
        self._retries += 1

    # ---------------------------------------------------------------------------------------------------------------

    def _choose(self, key: str | None) -> int:
        """Index of the instance for a request."""
        if len(self._pools) == 1:
            return 0
        now = self.loop.time()
        if self._by_key and key is not None:
            # Whatever health checks say: no other instance could serve this key, and an attempt is better than none.
            index = self._rendezvous.choose(key)
            if self._ejection.is_out(index, now):
                # Another instance does not know this key (contract: `balance: key`).
                raise UpstreamError(
                    ErrorCode.NO_UPSTREAM,
                    upstream=self._pools[index].name,
                    phase=Phase.SELECT,
                    detail="the instance of this key is out after repeated failures",
                    sent=False,
                )
            return index
        return choose_less_loaded(self._candidates(now), [pool.load for pool in self._pools], self._random)

    def _candidates(self, now: float) -> Sequence[int]:
        present: Sequence[int] = self._ejection.present(now)
        if unwell := self._wellness.unwell:
            present = [index for index in present if index not in unwell] or present
        return present

    def _choose_another(self, tried: Set[int]) -> tuple[int, Pool] | None:
        left = [index for index in self._candidates(self.loop.time()) if index not in tried]
        if not left:
            return None
        index = choose_less_loaded(left, [pool.load for pool in self._pools], self._random)
        return index, self._pools[index]
