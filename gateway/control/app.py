"""The control API as an ASGI application: wiring, and what is true of every call.

Order of every call: who calls, whether the role suffices, then query and body, then the handler. Nothing changes by
GET, nothing is said to other origins, and every answer is JSON but the metrics.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.acts import Order
from gateway.control.auth import Authenticator, Caller, require
from gateway.control.endpoints import ENDPOINTS, Endpoint
from gateway.control.handlers import Call, Handlers, Parts
from gateway.control.incidents import Signatures, secret_of
from gateway.control.json_body import parse_model, read_body, read_model
from gateway.control.openapi import describe
from gateway.control.problems import MEDIA_TYPE, Code, Refused, invalid
from gateway.core.roles import Role

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ETAG: Final = re.compile(r'"([0-9]{1,18})"')
_NOBODY: Final = Caller("", Role.VIEWER)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}

_log = structlog.get_logger("crossfade.control")

Handler = Callable[[Call], Awaitable[Response]]


def create_app(parts: Parts) -> ASGIApp:
    """Builds the application."""
    handlers = Handlers(parts, describe(ENDPOINTS))
    authenticator = Authenticator(parts.tokens, parts.bootstrap, time.monotonic)
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        by_path.setdefault(endpoint.path, {})[endpoint.method.value] = endpoint
    desk = Desk(handlers, authenticator)
    routes = [
        Route(path, desk.endpoint_for(methods), methods=list(methods), include_in_schema=False)
        for path, methods in by_path.items()
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})
    app.router.redirect_slashes = False
    return Envelope(app)


class Desk:
    """Takes each request through the same steps."""

    def __init__(self, handlers: Handlers, authenticator: Authenticator) -> None:
        self._handlers = handlers
        self._authenticator = authenticator
        self._signatures = Signatures(time.time, handlers.acts.store.is_first)

    def endpoint_for(self, methods: dict[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
        """The Starlette endpoint of one path."""

        async def serve(request: Request) -> Response:
            endpoint = methods["GET" if request.method == "HEAD" else request.method]
            try:
                return await self._serve(endpoint, request)
            except Refused as refused:
                return _refusal(refused)
            except Exception:
                # The process boundary: the caller learns that it failed, the log why.
                _log.exception("request_failed", call=endpoint.name, request_id=request.state.request_id)
                return _refusal(Refused(Code.INTERNAL, "this failed here; the log of control says why"))

        return serve

    async def _serve(self, endpoint: Endpoint, request: Request) -> Response:
        body: BaseModel | None = None
        signature = _only(request, "Crossfade-Signature") if endpoint.is_signed else None
        if signature is not None and endpoint.body is not None:
            content = await read_body(request)
            rules = self._handlers.acts.snapshot().definition.incidents
            secret = await asyncio.to_thread(secret_of, rules)
            caller = await self._signatures.check(signature, content, secret)
            body = parse_model(content, endpoint.body)
        else:
            caller = await self._admit(endpoint, request)
            body = None if endpoint.body is None else await read_model(request, endpoint.body)
        call = Call(
            endpoint,
            Order(caller, request.state.request_id, _if_match(endpoint, request)),
            dict(request.path_params),
            _query(endpoint, request),
            body,
        )
        handler: Handler = getattr(self._handlers, endpoint.name)
        return await handler(call)

    async def _admit(self, endpoint: Endpoint, request: Request) -> Caller:
        if endpoint.role is None:
            return _NOBODY
        address = request.client.host if request.client else "local"
        try:
            caller = await self._authenticator.identify(_only(request, "Authorization"), address)
        except Refused as refused:
            if refused.code is Code.TOKEN_REQUIRED:
                _log.warning("token_refused", call=endpoint.name, client=address, request_id=request.state.request_id)
            raise
        try:
            require(caller, endpoint.role)
        except Refused as refused:
            if refused.code is Code.ROLE_REQUIRED:
                what = f"{endpoint.method} {request.url.path[:200]}"
                await self._handlers.acts.record_refusal(caller, request.state.request_id, what, refused.code)
            raise
        return caller


class Envelope:
    """Gives every request an id and every answer the fields that keep browsers out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_enveloped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({**_HEADERS, "X-Request-Id": request_id})
            await send(message)

        await self._app(scope, receive, send_enveloped)


def _if_match(endpoint: Endpoint, request: Request) -> int | None:
    value = _only(request, "If-Match")
    if value is None or value.strip() == "*" or not endpoint.is_conditional:
        return None
    found = _ETAG.fullmatch(value.strip())
    if found is None:
        raise invalid('If-Match: write the epoch in quotes, such as If-Match: "12"')
    return int(found[1])


def _only(request: Request, name: str) -> str | None:
    """The value of a field that counts. Of two, a proxy in front may have judged the other."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise invalid(f"{name}: send it once")
    return values[0] if values else None


def _query(endpoint: Endpoint, request: Request) -> dict[str, str]:
    known = {query.name for query in endpoint.query}
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            knows = f"knows {', '.join(sorted(known))}" if known else "takes no parameters"
            raise invalid(f"{name[:60]}: {endpoint.path} {knows}")
        if name in found:
            raise invalid(f"{name}: stands there twice")
        found[name] = value
    return found


async def _unrouted(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == 405:
        message = f"{request.method} is not for this path"
        return _refusal(Refused(Code.METHOD_NOT_ALLOWED, message, headers=dict(exc.headers or {})))
    return _refusal(Refused(Code.NOT_FOUND, "there is nothing at this path; GET /openapi.json lists all"))


def _refusal(refused: Refused) -> Response:
    return JSONResponse(refused.document(), refused.status, refused.headers, media_type=MEDIA_TYPE)
