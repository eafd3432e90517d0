"""The REST half: one POST route for each operation, errors as problem+json, health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.common.contract import OPERATIONS, Operation
from backends.common.dispatch import Dispatcher, folded
from backends.common.errors import Code, ServiceError

BODY_LIMIT_BYTES: Final = 8 << 20
_CLIENT_CLOSED: Final = 499
"""Nobody reads it; nginx's number for a client that left."""


class Problem(JSONResponse):
    """An error over REST."""

    media_type = "application/problem+json"

    def __init__(self, status: int, content: dict[str, object], headers: dict[str, str] | None = None) -> None:
        """Builds the answer.

        Args:
            status: HTTP status.
            content: `{"code", "message", "retryable"}`.
            headers: More fields.
        """
        standard = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
        super().__init__({**standard, "detail": content["message"], **content}, status_code=status, headers=headers)


def rest_routes(dispatcher: Dispatcher) -> list[Route]:
    """Routes of all operations and of health."""
    routes = [Route(op.route, _operation(dispatcher, op), methods=["POST"]) for op in OPERATIONS.values()]

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "service": dispatcher.service.name})

    async def readyz(_: Request) -> Response:
        why = await dispatcher.service.why_not_ready()
        return JSONResponse({"status": "waiting" if why else "ready", "why": why}, status_code=503 if why else 200)

    return [
        *routes,
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]


async def http_problem(_: Request, exc: Exception) -> Response:
    """What Starlette itself refuses: unknown paths and methods."""
    assert isinstance(exc, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "invalid_argument")
    content: dict[str, object] = {"code": code, "message": exc.detail, "retryable": False}
    return Problem(exc.status_code, content, dict(exc.headers or {}))


def _operation(dispatcher: Dispatcher, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            arguments = await _arguments(request)
            working = asyncio.create_task(dispatcher.call(operation, folded(request.headers), arguments))
            return JSONResponse(await _unless_gone(request, working))
        except ServiceError as exc:
            return Problem(exc.meaning.status, exc.content())
        except ClientDisconnect:
            # Nobody hears it; it is not worth a traceback.
            return Response(status_code=_CLIENT_CLOSED)

    return endpoint


async def _unless_gone(request: Request, working: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
    """Waits for a call; when the client leaves first, the call is cancelled and has ended before this returns."""
    leaving: asyncio.Task[Any] = asyncio.create_task(_wait_gone(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _arguments(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_LIMIT_BYTES:
            raise ServiceError(Code.TOO_LARGE, f"the body is larger than {BODY_LIMIT_BYTES} bytes")
    if not body:
        return {}
    try:
        content = json.loads(bytes(body), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise ServiceError(Code.INVALID_ARGUMENT, "the body is no JSON, or an ambiguous one") from exc
    if not isinstance(content, dict):
        raise ServiceError(Code.INVALID_ARGUMENT, "the body is no JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
