from __future__ import annotations

import asyncio

import pytest

from backends.common.errors import Code, ServiceError
from backends.common.locks import LocalLocks
from backends.common.workspace import WorkspaceId

HERE, THERE = WorkspaceId("a", "1"), WorkspaceId("a", "2")


async def test_writers_of_one_workspace_take_turns_and_others_do_not_wait() -> None:
    locks = LocalLocks()
    said: list[str] = []
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def first() -> None:
        async with locks.hold(HERE):
            said.append("first in")
            entered.set()
            await leave.wait()
            said.append("first out")

    async def second() -> None:
        async with locks.hold(HERE):
            said.append("second in")

    holding = asyncio.create_task(first())
    await entered.wait()
    waiting = asyncio.create_task(second())
    async with locks.hold(THERE):
        said.append("elsewhere")
    leave.set()
    await asyncio.gather(holding, waiting)
    assert said == ["first in", "elsewhere", "first out", "second in"]


async def test_waiting_too_long_is_busy() -> None:
    locks = LocalLocks(wait_s=0.01)
    async with locks.hold(HERE):
        with pytest.raises(ServiceError) as caught:
            async with locks.hold(HERE):
                pass
    assert caught.value.code is Code.WORKSPACE_BUSY


async def test_a_cancelled_wait_holds_nothing_and_unused_locks_are_forgotten() -> None:
    locks = LocalLocks()
    async with locks.hold(HERE):
        waiting = asyncio.create_task(locks.hold(HERE).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with locks.hold(HERE):
        pass
    assert not locks._locks
    assert not locks._users
