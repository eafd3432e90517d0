"""Both planes as one application."""

from __future__ import annotations

from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.common.fake_e2b.control_plane import control_routes
from backends.common.fake_e2b.envd_plane import envd_routes
from backends.common.fake_e2b.machines import Cloud


def fake_e2b_app(cloud: Cloud, api_key: str | None = None) -> Starlette:
    """An E2B-compatible server for this machine: commands run here, without isolation."""

    async def troubles(request: Request) -> Response:
        for name, value in (await request.json()).items():
            if not hasattr(cloud.troubles, name):
                return JSONResponse({"code": 400, "message": f"there is no trouble {name}"}, status_code=400)
            setattr(cloud.troubles, name, value)
        return Response(status_code=204)

    async def state(_: Request) -> Response:
        seen = {"started": cloud.started, "running": cloud.running, "last_creation": cloud.last_creation}
        return JSONResponse({**asdict(cloud.troubles), **seen})

    async def cut(_: Request) -> Response:
        cloud.cut()
        return Response(status_code=204)

    async def let_go(_: Request) -> Response:
        cloud.let_go.set()
        return Response(status_code=204)

    own = [
        Route("/troubles", troubles, methods=["PUT"]),
        Route("/troubles", state, methods=["GET"]),
        Route("/troubles/cut", cut, methods=["POST"]),
        Route("/troubles/let-go", let_go, methods=["POST"]),
    ]
    return Starlette(routes=[*control_routes(cloud, api_key), *envd_routes(cloud), *own])
