"""The inventory and what else is internal over HTTP, for holders of the internal token alone.

GET /v1/workspaces?cursor=&limit=&updated_since=&prefix=    a page, in the order of hashes
GET /v1/workspaces/digest?prefix=                           of a range, and of the 16 below it
GET /v1/workspaces/{agent}/{task}                           one
GET /v1/workspaces/{agent}/{task}/export?have=              a git bundle; Crossfade-Workspace says of what
PUT /v1/workspaces/{agent}/{task}/import                    takes both; If-Match: "version" or If-None-Match: *
POST /v1/remotes/check {"url": …}                           whether its own credential opens a remote
GET /metrics                                                what the service counts
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backends.common import metrics
from backends.common.carrying import BUNDLE_LIMIT_BYTES, Manifest
from backends.common.dispatch import CARRY_S, Dispatcher
from backends.common.errors import Code, ServiceError
from backends.common.inventory import PAGE, sum_of
from backends.common.rest_surface import Problem
from backends.common.workspace import WorkspaceId, workspace_of

CARRIED_AT_ONCE: Final = 2
"""Exports and imports. Each holds its bundle up to three times for a moment, of up to 256 MiB."""
TURN_S: Final = 30.0
"""Longest wait for one's turn."""
MANIFEST: Final = "Crossfade-Workspace"
_PREFIX: Final = re.compile(r"[0-9a-f]{0,32}")
_QUESTION_LIMIT_BYTES: Final = 16 * 1024
_URL_LIMIT: Final = 4096
_VERSION: Final = re.compile(r'"(\d{1,18})"')

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def inventory_routes(dispatcher: Dispatcher) -> list[Route]:
    """Its routes."""
    workspaces = dispatcher.service.workspaces
    inventory = workspaces.inventory
    carriers = asyncio.Semaphore(CARRIED_AT_ONCE)

    def closed(endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if not dispatcher.token.is_held_by(request.headers.get("crossfade-auth")):
                return Problem(403, {"code": "forbidden", "message": "this is internal", "retryable": False})
            try:
                return await dispatcher.within_deadline(lambda: endpoint(request))
            except ServiceError as exc:
                return Problem(exc.meaning.status, exc.content())

        return checked

    async def page(request: Request) -> Response:
        limit = _limit(request.query_params.get("limit"))
        since = _time(request.query_params.get("updated_since"))
        cursor = _hex(request.query_params.get("cursor"), "cursor")
        prefix = _hex(request.query_params.get("prefix"), "prefix")
        await workspaces.catch_up()
        found = await inventory.page(prefix, cursor, since, limit + 1)
        surveyed = await asyncio.gather(*(workspaces.surveyed(record) for record in found[:limit]))
        rows = [record.content() for record in surveyed]
        following = found[limit - 1].workspace.digest if len(found) > limit else None
        return JSONResponse({"workspaces": rows, "next_cursor": following})

    async def digest(request: Request) -> Response:
        prefix = _hex(request.query_params.get("prefix"), "prefix")
        await workspaces.catch_up()
        await asyncio.gather(*(workspaces.surveyed(record) for record in await inventory.unsurveyed(prefix)))
        below = await inventory.digests(prefix)
        children = [part.content() for part in below] if len(prefix) < _HASH_DIGITS else []
        return JSONResponse({**sum_of(prefix, below).content(), "children": children})

    async def one(request: Request) -> Response:
        await workspaces.catch_up()
        record = await inventory.get(_workspace(request))
        if record is None:
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "there is no such workspace here")
        return JSONResponse((await workspaces.surveyed(record)).content(), headers=_etag(record.version))

    async def export(request: Request) -> Response:
        bundle, manifest = await workspaces.export(_workspace(request), request.query_params.get("have"))
        headers = {MANIFEST: manifest.text(), **_etag(manifest.version)}
        return Response(bundle, media_type="application/x-git-bundle", headers=headers)

    async def take(request: Request) -> Response:
        workspace = _workspace(request)
        manifest = Manifest.parse(request.headers.get(MANIFEST) or "")
        expected = _expected(request)
        record = await workspaces.take(workspace, await _body(request), manifest, expected)
        return JSONResponse(record.content(), headers=_etag(record.version))

    async def check_remote(request: Request) -> Response:
        return JSONResponse(await workspaces.check_remote(await _url(request)))

    async def measured(_: Request) -> Response:
        return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)

    below = "/v1/workspaces/{agent}/{task}"
    return [
        # Closed too: clients of the gateway reach this port.
        Route("/metrics", closed(measured), methods=["GET"]),
        Route("/v1/remotes/check", closed(check_remote), methods=["POST"]),
        Route("/v1/workspaces", closed(page), methods=["GET"]),
        Route("/v1/workspaces/digest", closed(digest), methods=["GET"]),
        Route(below, closed(one), methods=["GET"]),
        Route(f"{below}/export", _FewAtOnce(carriers, closed(export)), methods=["GET"]),
        Route(f"{below}/import", _FewAtOnce(carriers, closed(take)), methods=["PUT"]),
        # What is not there is closed as well: nobody learns from here which workspaces exist.
        Route("/v1/workspaces/{rest:path}", closed(_nothing), methods=["GET", "POST", "PUT", "DELETE"]),
    ]


_HASH_DIGITS: Final = 32


class _FewAtOnce:
    """Serves so many requests at once, each until its answer is sent: bundles are held in memory."""

    def __init__(self, turns: asyncio.Semaphore, endpoint: Endpoint) -> None:
        self._turns = turns
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            error = ServiceError(Code.RATE_LIMITED, "as many workspaces are being carried as may be; try again")
            await Problem(error.meaning.status, error.content())(scope, receive, send)
            return
        try:
            response = await self._endpoint(Request(scope, receive, send))
            # Who reads slower than this loses its connection: an answer that is not whole.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CARRY_S):
                    await response(scope, receive, send)
        finally:
            self._turns.release()


async def _nothing(_: Request) -> Response:
    raise ServiceError(Code.NOT_FOUND, "the inventory has no such resource")


def _workspace(request: Request) -> WorkspaceId:
    return workspace_of({}, {"agent_id": request.path_params["agent"], "task_id": request.path_params["task"]})


def _etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= PAGE:
        raise ServiceError(Code.INVALID_ARGUMENT, f"limit must be 1 to {PAGE}")
    return int(text)


def _hex(text: str | None, name: str) -> str:
    if text is None:
        return ""
    if not _PREFIX.fullmatch(text):
        raise ServiceError(Code.INVALID_ARGUMENT, f"{name} must be up to 32 hex digits, in lower case")
    return text


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ServiceError(Code.INVALID_ARGUMENT, "updated_since must be an RFC 3339 time")
    return at


def _expected(request: Request) -> int | None:
    """The version that shall be replaced: 0 = none there yet, None = whatever is there."""
    if request.headers.get("if-none-match") == "*":
        return 0
    text = request.headers.get("if-match")
    if text is None or text == "*":
        return None
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ServiceError(Code.INVALID_ARGUMENT, "if-match must be a version in double quotes")
    return int(match[1])


async def _url(request: Request) -> str:
    try:
        url = json.loads(await _body(request, _QUESTION_LIMIT_BYTES))["url"]
    except (ValueError, TypeError, KeyError, RecursionError):
        url = None
    if not isinstance(url, str) or not 0 < len(url) <= _URL_LIMIT:
        raise ServiceError(Code.INVALID_ARGUMENT, 'write {"url": "https://…"}')
    return url


async def _body(request: Request, limit: int = BUNDLE_LIMIT_BYTES) -> bytes:
    pieces = bytearray()
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > limit:
            raise ServiceError(Code.TOO_LARGE, f"the body is larger than {limit} bytes")
    return bytes(pieces)
