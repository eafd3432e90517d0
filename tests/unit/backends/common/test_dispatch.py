"""What the end of a service waits for, and what it ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.common.authority import InternalToken
from backends.common.dispatch import Dispatcher
from backends.common.errors import Code, ServiceError
from backends.common.local_provider import LocalProvider
from tests.support.simple_service import simple_service


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[Dispatcher]:
    async with simple_service(LocalProvider(tmp_path / "sandboxes"), tmp_path / "notes") as simple:
        yield Dispatcher(simple.service, InternalToken())


async def test_what_is_asked_besides_operations_has_ended_when_the_dispatcher_is_closed(
    dispatcher: Dispatcher,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def export() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            # As the end of a command takes its time.
            await asyncio.sleep(0)
            ended.set()

    asking = asyncio.create_task(dispatcher.within_deadline(export))
    await begun.wait()
    await dispatcher.aclose()
    assert ended.is_set()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_who_leaves_waits_for_the_end_of_what_was_asked(dispatcher: Dispatcher) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def export() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    asking = asyncio.create_task(dispatcher.within_deadline(export))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert ended.is_set()


async def test_how_it_fails_when_nobody_waits_is_no_error_of_the_loop(dispatcher: Dispatcher) -> None:
    begun = asyncio.Event()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def export() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, "it went away") from exc

    asking = asyncio.create_task(dispatcher.within_deadline(export))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    del asking
    # The loop lets go of it a step later.
    await asyncio.sleep(0)
    gc.collect()
    assert not complaints


async def test_what_is_not_foreseen_is_internal(dispatcher: Dispatcher) -> None:
    async def export() -> None:
        raise KeyError("x")

    with pytest.raises(ServiceError) as caught:
        await dispatcher.within_deadline(export)
    assert caught.value.code is Code.INTERNAL
