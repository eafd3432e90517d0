"""The same job the obvious way: Starlette in front, httpx behind. `python -m bench.gateway_httpx PORT BACKEND`."""

from __future__ import annotations

import hashlib
import sys
import uuid

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_DROPPED = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})
_METHODS = ["GET", "POST", "PUT", "DELETE"]


def application(backend: int) -> Starlette:
    """The gateway, in front of a backend's port."""
    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=512, max_keepalive_connections=512), timeout=60)
    sides = {False: f"http://127.0.0.1:{backend}", True: f"http://localhost:{backend}"}

    async def carry(request: Request) -> Response:
        digest = hashlib.sha256(request.headers.get("x-key", "").encode()).digest()
        side = sides[int.from_bytes(digest[:8], "big") < 1 << 63]
        headers = {name: value for name, value in request.headers.items() if name not in _DROPPED}
        headers["x-request-id"] = uuid.uuid4().hex
        headers["x-forwarded-for"] = request.client.host if request.client else ""
        answer = await client.request(
            request.method, side + request.url.path, headers=headers, content=await request.body()
        )
        kept = {name: value for name, value in answer.headers.items() if name not in _DROPPED}
        return Response(answer.content, answer.status_code, kept)

    return Starlette(routes=[Route("/{path:path}", carry, methods=_METHODS)])


if __name__ == "__main__":
    uvicorn.run(application(int(sys.argv[2])), port=int(sys.argv[1]), access_log=False, log_level="warning")
