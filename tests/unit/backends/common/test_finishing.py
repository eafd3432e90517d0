from __future__ import annotations

import asyncio

import pytest

from backends.common.finishing import to_the_end


async def test_the_result_is_handed_on() -> None:
    async def work() -> int:
        return 7

    assert await to_the_end(work()) == 7


async def test_a_failure_is_handed_on() -> None:
    async def work() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        await to_the_end(work())


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_is_raised_after_the_work_has_ended(times: int, fails: bool) -> None:
    said: list[str] = []
    may_end = asyncio.Event()

    async def work() -> None:
        await may_end.wait()
        said.append("worked")
        if fails:
            raise OSError("no room")

    async def caller() -> None:
        try:
            await to_the_end(work())
        finally:
            said.append("left")

    calling = asyncio.create_task(caller())
    await asyncio.sleep(0)
    for _ in range(times):
        calling.cancel()
        await asyncio.sleep(0)
        assert said == []
    may_end.set()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    assert said == ["worked", "left"]


async def test_a_deadline_that_passes_meanwhile_is_one_still() -> None:
    may_end = asyncio.Event()

    async def late() -> None:
        async with asyncio.timeout(0):
            asyncio.get_running_loop().call_soon(may_end.set)
            await to_the_end(may_end.wait())

    with pytest.raises(TimeoutError):
        await late()
    assert may_end.is_set()
