"""From a call on a surface to an operation of the service: the same for REST and MCP."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import structlog
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from backends.common import metrics
from backends.common.authority import InternalToken
from backends.common.contract import Arguments, Operation
from backends.common.errors import Code, ServiceError
from backends.common.git_command import read_request_time
from backends.common.git_operations import Call
from backends.common.service import GitService
from backends.common.workspace import workspace_of

_MIRROR: Final = "mirror"
_RELAY: Final = "relay"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")

CARRY_S: Final = 240.0

T = TypeVar("T")

_log = structlog.get_logger("crossfade.service")


class Dispatcher:
    """Checks a call and hands it to the service.

    Attributes:
        service: Performs it.
        token: Who may say more than a client.
    """

    def __init__(self, service: GitService, token: InternalToken, longest_s: float | None = None) -> None:
        """Starts nothing.

        Args:
            service: Performs calls.
            token: Who may say more than a client.
            longest_s: Cuts the deadline of every operation, where that is longer.
        """
        self.service = service
        self.token = token
        self._longest_s = longest_s
        self._running: set[asyncio.Task[Any]] = set()

    async def call(
        self, operation: Operation, headers: Mapping[str, str], arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Performs a call.

        Args:
            operation: What is asked for.
            headers: Lower-case names.
            arguments: As they came.

        Raises:
            ServiceError: It failed; what is not foreseen is `internal`.
        """
        return await self._counted(self._measured(operation, headers, arguments))

    async def within_deadline(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What is asked of the service besides operations, under their longest deadline.

        Raises:
            ServiceError: `deadline`; `internal`: what is not foreseen.
        """
        return await self._counted(self._within_deadline(work))

    async def _counted(self, work: Coroutine[Any, Any, T]) -> T:
        """Work that the end of the service waits for.

        In a task of its own: the MCP SDK cancels what it runs again and again until it ends, and an operation must be
        able to await the end of its commands, and only then let go of the workspace.
        """
        working = asyncio.create_task(work)
        self._running.add(working)
        working.add_done_callback(self._ended)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            working.cancel()
            await asyncio.wait([working])
            raise

    def _ended(self, working: asyncio.Task[Any]) -> None:
        self._running.discard(working)
        if not working.cancelled():
            # Marks it as seen: whoever has left does not wait for how it failed.
            working.exception()

    async def _within_deadline(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            async with asyncio.timeout(self._longest_s or CARRY_S):
                return await work()
        except TimeoutError as exc:
            raise ServiceError(Code.DEADLINE, "it did not end in time") from exc
        except (ServiceError, ClientDisconnect):
            raise
        except Exception as exc:
            _log.exception("request_failed")
            raise ServiceError(Code.INTERNAL, "the service failed; its log says why") from exc

    async def aclose(self) -> None:
        """Ends every call that still runs, with its commands."""
        running = list(self._running)
        for working in running:
            working.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _measured(
        self, operation: Operation, headers: Mapping[str, str], arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        begun = time.monotonic()
        code = "cancelled"
        within_s = operation.deadline_s if self._longest_s is None else min(operation.deadline_s, self._longest_s)
        try:
            try:
                async with asyncio.timeout(within_s):
                    result = await self._call(operation, headers, arguments)
                    code = "ok"
                    return result
            except TimeoutError as exc:
                raise ServiceError(Code.DEADLINE, f"the operation did not end within {within_s:g} s") from exc
        except ServiceError as exc:
            code = exc.code.value
            raise
        except Exception as exc:
            code = Code.INTERNAL.value
            _log.exception("operation_failed", operation=operation.name)
            raise ServiceError(Code.INTERNAL, "the service failed; its log says why") from exc
        finally:
            took_s = time.monotonic() - begun
            metrics.OPERATIONS.labels(operation.name, code).inc()
            metrics.OPERATION_SECONDS.labels(operation.name).observe(took_s)
            _log.debug("operation", operation=operation.name, code=code, seconds=round(took_s, 4))

    async def _call(
        self, operation: Operation, headers: Mapping[str, str], arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        is_internal = self.token.is_held_by(headers.get("crossfade-auth"))
        if is_internal and operation.is_write and headers.get("crossfade-copy", "").strip().lower() == _MIRROR:
            raise ServiceError(Code.COPY_REFUSED, "a write is never mirrored")
        workspace = workspace_of(headers, arguments)
        checked = check_arguments(operation.arguments, arguments)
        call = _call_of(headers, is_internal=is_internal)
        return await self.service.workspaces.perform(operation, workspace, checked, call)


def folded(headers: Headers) -> dict[str, str]:
    """The fields of a request by lower-case name; a repeated one is a list, as RFC 9110 section 5.3 has it.

    Whoever takes the first and whoever takes the last would not mean the same workspace; a list names none.
    """
    fields: dict[str, str] = {}
    for name, value in headers.items():
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _call_of(headers: Mapping[str, str], *, is_internal: bool) -> Call:
    key = headers.get("idempotency-key")
    if not is_internal:
        return Call(key=key)
    is_relayed = headers.get("crossfade-copy", "").strip().lower() == _RELAY
    expected = headers.get("crossfade-expect-head") if is_relayed else None
    if expected is not None and not _COMMIT.fullmatch(expected):
        raise ServiceError(Code.INVALID_ARGUMENT, "crossfade-expect-head names no commit")
    return Call(_time_of(headers.get("crossfade-request-time")), key, is_relayed, expected)


def _time_of(text: str | None) -> datetime | None:
    at = read_request_time(text) if text is not None else None
    if text is not None and at is None:
        raise ServiceError(Code.INVALID_ARGUMENT, "crossfade-request-time is no RFC 3339 time")
    return at


def check_arguments(model: type[Arguments], arguments: Mapping[str, Any]) -> Arguments:
    """Checks the arguments of a call.

    Raises:
        ServiceError: `invalid_argument`, naming the first that is wrong; never its value.
    """
    try:
        return model.model_validate(dict(arguments))
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in fault["loc"])[:100]
        if fault["type"] == "extra_forbidden":
            raise ServiceError(Code.INVALID_ARGUMENT, f"{place}: there is no such argument") from None
        why = fault["msg"].removeprefix("Value error, ")
        raise ServiceError(Code.INVALID_ARGUMENT, f"{place}: {why}") from None
