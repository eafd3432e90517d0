"""The control plane: creates, lists, prolongs and kills sandboxes."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.common.fake_e2b.machines import Cloud, Machine

_ENVD_VERSION: Final = "0.6.4"
_PAGE: Final = 100


def control_routes(cloud: Cloud, api_key: str | None) -> list[Route]:
    """Its routes.

    Args:
        cloud: The sandboxes.
        api_key: The only one that is let in; None = any.
    """

    def refusal(request: Request) -> Response | None:
        given = request.headers.get("x-api-key")
        if not given or (api_key is not None and given != api_key):
            return _error(401, "Invalid API key")
        return None

    async def create(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        content = await _json(request)
        cloud.last_creation = content
        wait_s = cloud.must_wait_s()
        if wait_s > 0:
            return _error(429, "Rate limit exceeded", {"Retry-After": str(math.ceil(wait_s))})
        machine = await cloud.create(
            request.headers.get("idempotency-key"),
            content.get("metadata") or {},
            content.get("envVars") or {},
            content.get("timeout"),
            content.get("templateID") or "base",
        )
        if cloud.troubles.lost_creations > 0:
            cloud.troubles.lost_creations -= 1
            return _error(504, "upstream request timeout")
        return JSONResponse(_created(machine), status_code=201)

    async def listing(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        wanted = parse_qs(unquote(request.query_params.get("metadata", "")))
        found = [
            machine
            for machine in cloud.all()
            if all(machine.metadata.get(name) == unquote(values[0]) for name, values in wanted.items())
        ]
        start = int(request.query_params.get("nextToken") or 0)
        limit = min(int(request.query_params.get("limit") or _PAGE), _PAGE)
        headers = {"x-next-token": str(start + limit)} if len(found) > start + limit else {}
        return JSONResponse([_info(machine) for machine in found[start : start + limit]], headers=headers)

    async def info(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        machine = cloud.get(request.path_params["id"])
        return JSONResponse(_info(machine)) if machine else _gone(request)

    async def kill(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        return Response(status_code=204) if cloud.kill(request.path_params["id"]) else _gone(request)

    async def connect(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        machine = cloud.get(request.path_params["id"])
        if machine is None:
            return _gone(request)
        _prolong(machine, (await _json(request)).get("timeout"))
        return JSONResponse(_created(machine))

    async def timeout(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        machine = cloud.get(request.path_params["id"])
        if machine is None:
            return _gone(request)
        _prolong(machine, (await _json(request)).get("timeout"))
        return Response(status_code=204)

    return [
        Route("/v2/sandboxes", create, methods=["POST"]),
        Route("/v2/sandboxes", listing, methods=["GET"]),
        Route("/sandboxes/{id}", info, methods=["GET"]),
        Route("/sandboxes/{id}", kill, methods=["DELETE"]),
        Route("/v2/sandboxes/{id}/connect", connect, methods=["POST"]),
        Route("/sandboxes/{id}/timeout", timeout, methods=["POST"]),
    ]


def _prolong(machine: Machine, life_s: float | None) -> None:
    if life_s is not None:
        machine.ends_at = datetime.now(UTC).timestamp() + life_s


def _created(machine: Machine) -> dict[str, Any]:
    return {
        "templateID": machine.template,
        "sandboxID": machine.sandbox_id,
        "clientID": "local",
        "envdVersion": _ENVD_VERSION,
        "envdAccessToken": f"token-{machine.sandbox_id}",
    }


def _info(machine: Machine) -> dict[str, Any]:
    return {
        **_created(machine),
        "startedAt": _time(machine.started_at),
        "endAt": _time(machine.ends_at),
        "cpuCount": 2,
        "memoryMB": 512,
        "diskSizeMB": 1024,
        "state": "running",
        "metadata": dict(machine.metadata),
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


async def _json(request: Request) -> dict[str, Any]:
    body = await request.body()
    content = json.loads(body) if body else {}
    return content if isinstance(content, dict) else {}


def _gone(request: Request) -> Response:
    return _error(404, f"sandbox {request.path_params['id']} not found")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"code": status, "message": message}, status_code=status, headers=headers)
