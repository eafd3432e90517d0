"""The same job the obvious way: Starlette in front, aiohttp behind. `python -m bench.gateway_aiohttp PORT BACKEND`."""

from __future__ import annotations

import hashlib
import sys
import uuid

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_DROPPED = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})
_METHODS = ["GET", "POST", "PUT", "DELETE"]


def application(backend: int) -> Starlette:
    """The gateway, in front of a backend's port."""
    clients: list[aiohttp.ClientSession] = []
    sides = {False: f"http://127.0.0.1:{backend}", True: f"http://localhost:{backend}"}

    async def carry(request: Request) -> Response:
        digest = hashlib.sha256(request.headers.get("x-key", "").encode()).digest()
        side = sides[int.from_bytes(digest[:8], "big") < 1 << 63]
        headers = {name: value for name, value in request.headers.items() if name not in _DROPPED}
        headers["x-request-id"] = uuid.uuid4().hex
        headers["x-forwarded-for"] = request.client.host if request.client else ""
        if not clients:
            clients.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512)))
        body = await request.body()
        async with clients[0].request(request.method, side + request.url.path, headers=headers, data=body) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
            return Response(await answer.read(), answer.status, kept)

    return Starlette(routes=[Route("/{path:path}", carry, methods=_METHODS)])


if __name__ == "__main__":
    uvicorn.run(application(int(sys.argv[2])), port=int(sys.argv[1]), access_log=False, log_level="warning")
