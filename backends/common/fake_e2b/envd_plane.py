"""The plane inside a sandbox: commands (Connect streams of JSON) and files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import struct
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.common.fake_e2b.machines import Cloud, Machine, signal_group

_PIECE: Final = 32_768
_KEEPALIVE_S: Final = 10.0
_END_OF_STREAM: Final = 2
_SIGNALS: Final = {"SIGNAL_SIGKILL": signal.SIGKILL, "SIGNAL_SIGTERM": signal.SIGTERM}

Handler = Callable[[Machine, Request], Awaitable[Response]]


def envd_routes(cloud: Cloud) -> list[Route]:
    """Its routes; the sandbox is named by a header."""

    def inside(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            sandbox_id = request.headers.get("e2b-sandbox-id", "")
            machine = cloud.get(sandbox_id)
            return _not_found(sandbox_id) if machine is None else await handler(machine, request)

        return endpoint

    async def start(machine: Machine, request: Request) -> Response:
        wanted = _unframed(await request.body())
        process = wanted["process"]
        await cloud.hold()
        if cloud.get(machine.sandbox_id) is None:
            return _not_found(machine.sandbox_id)
        cloud.started += 1
        try:
            started = await machine.start(
                process["cmd"],
                process.get("args") or [],
                process.get("envs") or {},
                process.get("cwd") or "",
                stdin=bool(wanted.get("stdin")),
            )
        except OSError as exc:
            return _stream(_failed("invalid_argument", str(exc.strerror)))
        if cloud.troubles.deaths > 0:
            cloud.troubles.deaths -= 1
            cloud.kill(machine.sandbox_id)
        timeout_ms = request.headers.get("connect-timeout-ms")
        return _stream(_events(cloud, machine, started, int(timeout_ms) / 1000 if timeout_ms else None))

    return [
        Route("/health", inside(_health), methods=["GET"]),
        Route("/files", inside(_read_file), methods=["GET"]),
        Route("/files", inside(_write_file), methods=["POST"]),
        Route("/process.Process/Start", inside(start), methods=["POST"]),
        Route("/process.Process/List", inside(_list), methods=["POST"]),
        Route("/process.Process/SendSignal", inside(_signal), methods=["POST"]),
        Route("/process.Process/SendInput", inside(_input), methods=["POST"]),
        Route("/process.Process/CloseStdin", inside(_close_stdin), methods=["POST"]),
    ]


def _not_found(sandbox_id: str) -> Response:
    message = f"The sandbox {sandbox_id} was not found"
    return JSONResponse({"code": 502, "message": message, "sandboxId": sandbox_id}, status_code=502)


# --- commands ------------------------------------------------------------------------------------------------------


async def _events(cloud: Cloud, machine: Machine, process: Process, timeout_s: float | None) -> AsyncIterator[bytes]:
    """What a command says, as it says it. A client that leaves does not end it; its timeout does."""
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(64)
    cloud.streams.add(queue)
    watching = asyncio.create_task(_watch(machine, process, queue, timeout_s))
    try:
        yield _frame({"event": {"start": {"pid": process.pid}}})
        while True:
            try:
                event = await asyncio.wait_for(queue.get(), _KEEPALIVE_S)
            except TimeoutError:
                yield _frame({"event": {"keepalive": {}}})
                continue
            if event is None:
                break
            if "cut" in event:
                raise ConnectionAbortedError
            yield _frame({"event": event}) if "error" not in event else _frame(event, _END_OF_STREAM)
            if "error" in event:
                return
        yield _frame({}, _END_OF_STREAM)
    finally:
        cloud.streams.discard(queue)
        # Nobody reads any more; what it says is dropped.
        draining = asyncio.create_task(_drain(queue, watching))
        _background.add(draining)
        draining.add_done_callback(_background.discard)


_background: set[asyncio.Task[None]] = set()


async def _drain(queue: asyncio.Queue[dict[str, Any] | None], watching: asyncio.Task[None]) -> None:
    while not watching.done():
        taking = asyncio.create_task(queue.get())
        await asyncio.wait([taking, watching], return_when=asyncio.FIRST_COMPLETED)
        taking.cancel()


async def _watch(
    machine: Machine, process: Process, queue: asyncio.Queue[dict[str, Any] | None], timeout_s: float | None
) -> None:
    async def read(stream: asyncio.StreamReader | None, name: str) -> None:
        assert stream is not None
        while piece := await stream.read(_PIECE):
            await queue.put({"data": {name: base64.b64encode(piece).decode()}})

    try:
        async with asyncio.timeout(timeout_s or None):
            await asyncio.gather(read(process.stdout, "stdout"), read(process.stderr, "stderr"))
            code = await process.wait()
    except TimeoutError:
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        await queue.put({"error": {"code": "deadline_exceeded", "message": "the command took too long"}})
        return
    finally:
        machine.processes.pop(process.pid, None)
    if not machine.home.exists():
        # The sandbox died under its command.
        await queue.put({"error": {"code": "unavailable", "message": "connection to the sandbox was lost"}})
        return
    code = code if code >= 0 else 128 - code
    await queue.put({"end": {"exitCode": code, "exited": True, "status": f"exit status {code}"}})
    await queue.put(None)


async def _failed(code: str, message: str) -> AsyncIterator[bytes]:
    yield _frame({"error": {"code": code, "message": message}}, _END_OF_STREAM)


async def _list(machine: Machine, _: Request) -> Response:
    processes = [{"config": {"cmd": "/bin/bash", "args": []}, "pid": pid} for pid in machine.processes]
    return JSONResponse({"processes": processes})


async def _signal(machine: Machine, request: Request) -> Response:
    content = await request.json()
    pid = int(content["process"]["pid"])
    if pid not in machine.processes:
        return _rpc_error(404, "not_found", f"process with pid {pid} not found")
    signal_group(pid, _SIGNALS.get(content.get("signal"), signal.SIGKILL))
    return JSONResponse({})


async def _input(machine: Machine, request: Request) -> Response:
    content = await request.json()
    process = machine.processes.get(int(content["process"]["pid"]))
    if process is None or process.stdin is None:
        return _rpc_error(404, "not_found", "there is no such process with an input")
    with contextlib.suppress(ConnectionError):
        process.stdin.write(base64.b64decode(content["input"]["stdin"]))
        await process.stdin.drain()
    return JSONResponse({})


async def _close_stdin(machine: Machine, request: Request) -> Response:
    process = machine.processes.get(int((await request.json())["process"]["pid"]))
    if process is None or process.stdin is None:
        return _rpc_error(404, "not_found", "there is no such process with an input")
    process.stdin.close()
    return JSONResponse({})


# --- files ---------------------------------------------------------------------------------------------------------


async def _health(_: Machine, __: Request) -> Response:
    return Response(status_code=204)


async def _read_file(machine: Machine, request: Request) -> Response:
    path = machine.path(request.query_params.get("path", ""))
    if not path.is_file():
        return JSONResponse({"code": 404, "message": f"path {path} does not exist"}, status_code=404)
    return Response(path.read_bytes(), media_type="application/octet-stream")


async def _write_file(machine: Machine, request: Request) -> Response:
    named = request.query_params.get("path", "")
    if request.headers.get("content-type", "").startswith("multipart/"):
        async with request.form() as form:
            files = [item for item in form.getlist("file") if not isinstance(item, str)]
            written = [_put(machine, named or item.filename or "", await item.read()) for item in files]
    else:
        written = [_put(machine, named, await request.body())]
    return JSONResponse(written)


def _put(machine: Machine, named: str, content: bytes) -> dict[str, str]:
    path = machine.path(named)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"path": str(path), "name": path.name, "type": "file"}


# --- the wire ------------------------------------------------------------------------------------------------------


def _stream(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, media_type="application/connect+json")


def _frame(content: dict[str, Any], flags: int = 0) -> bytes:
    data = json.dumps(content).encode()
    return struct.pack(">BI", flags, len(data)) + data


def _unframed(body: bytes) -> dict[str, Any]:
    length = struct.unpack(">I", body[1:5])[0]
    content: dict[str, Any] = json.loads(body[5 : 5 + length])
    return content


def _rpc_error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status_code=status)
