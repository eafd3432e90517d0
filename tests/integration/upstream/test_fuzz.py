"""Random misbehaviour: every exchange ends, in an answer or an error, and nothing leaks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.model import ErrorCode
from gateway.errors import UpstreamError
from gateway.upstream import SideUpstream, UpstreamLimits
from tests.integration.upstream.harness import fetch, get, scripted, side_of, tcp, within
from tests.support.raw_upstream import PATIENCE_S, Peer, RawRequest, RawUpstream, answer, chunked_answer, eventually

fragments = st.sampled_from(
    [
        answer(b"hello"),
        chunked_answer(b"hel", b"lo"),
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"content-length: 5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"x: " + b"y" * 300 + b"\r\n",
        b"\r\n",
        b"\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"hello",
        b"\0",
    ]
)
segments = st.lists(st.one_of(fragments, st.binary(min_size=1, max_size=30)), max_size=6)
ends = st.sampled_from(["close", "reset", "stay"])

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(plan=st.lists(st.tuples(segments, ends), min_size=1, max_size=4), is_head=st.booleans())
async def test_whatever_a_side_sends_every_exchange_ends_and_nothing_leaks(
    plan: list[tuple[list[bytes], str]], *, is_head: bool
) -> None:
    async def script(peer: Peer) -> None:
        sent, end = plan[peer.number % len(plan)]
        while True:
            await peer.receive_request()
            for segment in sent:
                await peer.send(segment)
            if end == "reset":
                peer.reset()
            if end != "stay":
                return

    deadlines = within(first_byte_s=0.02, between_bytes_s=0.02)
    limits = UpstreamLimits(connections=2, header_bytes=500, interim_answers=2, waiting_s=PATIENCE_S)
    async with scripted(script, limits) as (side, _):
        for _ in range(len(plan) + 1):
            try:
                body = await fetch(side, get(method=b"HEAD" if is_head else b"GET", deadlines=deadlines))
            except UpstreamError as error:
                assert error.code in (  # noqa: PT017 -- any of these may come, and nothing else
                    ErrorCode.UPSTREAM_RESET,
                    ErrorCode.UPSTREAM_INVALID,
                    ErrorCode.UPSTREAM_TIMEOUT,
                )
            else:
                assert not is_head or body == b""
            stats = side.stats()
            assert (stats.connecting, stats.in_use, stats.waiting) == (0, 0, 0)
            assert stats.idle <= 1


@dataclass
class Asked:
    """A request that has reached the server."""

    peer: Peer
    request: RawRequest
    reply: asyncio.Future[tuple[bytes, str]]


CONNECTIONS, WAITING, IDLE = 3, 4, 2


class PoolMachine(RuleBasedStateMachine):
    """The real client against a model that only counts.

    The model: at most `CONNECTIONS` exchanges run, the next `WAITING` wait in order, further ones are refused; whoever
    ends with a reusable connection leaves an idle one, at most `IDLE`, unless somebody waits.
    """

    loop_factory = asyncio.new_event_loop

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner(loop_factory=type(self).loop_factory)
        self._asked: dict[bytes, Asked] = {}
        self._keeping: dict[int, Peer] = {}
        self._tasks: dict[bytes, asyncio.Task[bytes]] = {}
        self._running: list[bytes] = []
        self._waiting: list[bytes] = []
        self._idle = 0
        self._count = 0
        self._run(self._set_up())

    def _run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    async def _set_up(self) -> None:
        self._server = await RawUpstream(self._script).__aenter__()
        limits = UpstreamLimits(
            connections=CONNECTIONS, waiting=WAITING, idle_connections=IDLE, waiting_s=PATIENCE_S * 10
        )
        self._context = side_of(tcp(self._server.port), limits=limits)
        self._side: SideUpstream = await self._context.__aenter__()

    async def _script(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        while True:
            request = await peer.receive_request()
            name = request.line.split()[1]
            asked = Asked(peer, request, loop.create_future())
            self._asked[name] = asked
            data, end = await asked.reply
            await peer.send(data)
            if end == "reset":
                peer.reset()
            if end != "keep":
                return
            self._keeping[peer.number] = peer

    def keep_one_more_than_the_pool_keeps(self) -> None:
        """Every connection at work, then every one given back; the server's end of the surplus one closes too."""
        for _ in range(CONNECTIONS):
            self.ask()
        for name in list(self._running):
            self._run(self._answer(name, "keep"))
        peers = self._keeping.values()
        self._run(eventually(lambda: sum(peer.is_open for peer in peers) == IDLE, "the surplus connection's end"))

    # -- the model ---------------------------------------------------------------------------------------------------

    def _free(self, *, is_reusable: bool) -> None:
        """A running exchange ended: the next in line runs, or the connection is kept."""
        if self._waiting:
            self._running.append(self._waiting.pop(0))
        elif is_reusable:
            self._idle = min(self._idle + 1, IDLE)

    async def _settle(self) -> None:
        def agrees() -> bool:
            stats = self._side.stats()
            real = (stats.connecting, stats.in_use, stats.waiting, stats.idle)
            return real == (0, len(self._running), len(self._waiting), self._idle) and all(
                name in self._asked for name in self._running
            )

        await eventually(agrees, f"{self._side!r} = {self._running} {self._waiting} {self._idle}")

    # -- what happens ------------------------------------------------------------------------------------------------

    @rule()
    def ask(self) -> None:
        self._run(self._ask())

    async def _ask(self) -> None:
        name = b"/%d" % self._count
        self._count += 1
        task = asyncio.ensure_future(fetch(self._side, get(name, may_retry=False)))
        if len(self._running) < CONNECTIONS:
            self._running.append(name)
            self._idle = max(self._idle - 1, 0)
        elif len(self._waiting) < WAITING:
            self._waiting.append(name)
        else:
            with pytest.raises(UpstreamError) as caught:
                await task
            assert caught.value.code is ErrorCode.OVERLOADED
            return
        self._tasks[name] = task
        await self._settle()

    @precondition(lambda self: self._running)
    @rule(data=st.data(), end=st.sampled_from(["keep", "close", "surplus", "half", "garbage", "reset"]))
    def answer(self, data: st.DataObject, end: str) -> None:
        self._run(self._answer(data.draw(st.sampled_from(self._running)), end))

    async def _answer(self, name: bytes, end: str) -> None:
        reply = {
            "keep": (answer(name), "keep"),
            "close": (answer(name, b"connection: close"), "close"),
            "surplus": (answer(name) + b"X", "wait"),
            "half": (answer(name)[:-1], "close"),
            "garbage": (b"garbage\r\n\r\n", "close"),
            "reset": (b"", "reset"),
        }[end]
        self._running.remove(name)
        self._free(is_reusable=end == "keep")
        self._asked[name].reply.set_result(reply)
        task = self._tasks.pop(name)
        if end in ("keep", "close", "surplus"):
            assert await task == name
        else:
            with pytest.raises(UpstreamError):
                await task
        await self._settle()

    @precondition(lambda self: self._running or self._waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._run(self._cancel(data.draw(st.sampled_from(self._running + self._waiting))))

    async def _cancel(self, name: bytes) -> None:
        if name in self._running:
            self._running.remove(name)
            self._free(is_reusable=False)
        else:
            self._waiting.remove(name)
        task = self._tasks.pop(name)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self._settle()

    @precondition(lambda self: self._idle and not self._running)
    @rule(is_poison=st.booleans())
    def break_all_idle(self, *, is_poison: bool) -> None:
        """The side closes, or talks on, every connection it keeps: those that run are not touched."""
        self._run(self._break_all_idle(is_poison=is_poison))

    async def _break_all_idle(self, *, is_poison: bool) -> None:
        for peer in self._keeping.values():
            if is_poison:
                await peer.send(answer(b"POISON"))
            else:
                peer.finish()
        self._keeping.clear()
        self._idle = 0
        await self._settle()

    @invariant()
    def bounds_hold(self) -> None:
        stats = self._side.stats()
        assert stats.connecting + stats.in_use + stats.idle <= CONNECTIONS
        assert stats.waiting <= WAITING

    def teardown(self) -> None:
        self._run(self._tear_down())
        self._runner.close()

    async def _tear_down(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        stats = self._side.stats()
        assert (stats.connecting, stats.in_use, stats.waiting) == (0, 0, 0)
        await self._context.__aexit__(None, None, None)
        await self._server.__aexit__(None, None, None)


class PoolMachineOnUvloop(PoolMachine):
    loop_factory = uvloop.new_event_loop


@pytest.mark.parametrize("machine", [PoolMachine, PoolMachineOnUvloop], ids=["asyncio", "uvloop"])
def test_the_pool_agrees_with_a_model_of_it(machine: type[PoolMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))


@pytest.mark.parametrize("is_poison", [True, False], ids=["poison", "close"])
@pytest.mark.parametrize("machine", [PoolMachine, PoolMachineOnUvloop], ids=["asyncio", "uvloop"])
def test_a_side_may_break_what_it_kept_when_the_pool_has_dropped_a_part_of_it(
    machine: type[PoolMachine], *, is_poison: bool
) -> None:
    # 1 200 random examples did not come upon this order of steps, and it failed by itself now and then.
    state = machine()
    try:
        state.keep_one_more_than_the_pool_keeps()
        state.break_all_idle(is_poison=is_poison)
        state.ask()
        state.bounds_hold()
    finally:
        state.teardown()
