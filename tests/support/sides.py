"""Two stub sides that say who they are, and a client that shows every byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, RawRequest, RawUpstream, Script, answer


@dataclass
class StubSide:
    """A side that answers every request with its name and remembers what it got.

    Attributes:
        side: Its name.
        requests: What came, in order.
        script: Answers a request; may be replaced.
    """

    side: Side
    requests: list[RawRequest] = field(default_factory=list)
    script: Script | None = None
    server: RawUpstream | None = None

    @property
    def url(self) -> str:
        """Its address."""
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.port}"

    async def serve(self, peer: Peer) -> None:
        """Answers on one connection."""
        if self.script is not None:
            await self.script(peer)
            return
        while True:
            request = await peer.receive_request()
            self.requests.append(request)
            await peer.send(answer(self.side.encode(), b"content-type: text/plain"))


@asynccontextmanager
async def stub_sides() -> AsyncIterator[dict[Side, StubSide]]:
    """Both, listening."""
    sides = {side: StubSide(side) for side in Side}
    async with RawUpstream(sides[Side.OLD].serve) as old, RawUpstream(sides[Side.NEW].serve) as new:
        sides[Side.OLD].server, sides[Side.NEW].server = old, new
        yield sides


def migration(sides: dict[Side, StubSide], **more: Any) -> dict[str, Any]:
    """A migration file: reads and writes of items in one group keyed by a header, tools over MCP."""
    items: dict[str, Any] = {
        "item.get": {"class": "read", "group": "items", "match": {"rest": "GET /items/{id}", "mcp": "item_get"}},
        "item.put": {"class": "write", "group": "items", "match": {"rest": "PUT /items/{id}", "mcp": "item_put"}},
        "item.find": {"class": "write", "group": "items", "match": {"rest": "POST /find"}, "body_limit": 10_000},
    }
    return {
        "migration": "shop",
        "mcp": {"path": "/mcp"},
        "sides": {side.value: {"instances": [stub.url]} for side, stub in sides.items()},
        "groups": {"items": {"writes": "none", "key": [["header:x-key"], ["argument:key"]]}},
        "operations": items,
        **more,
    }


def live(content: dict[str, Any], percent: float) -> dict[str, Any]:
    """The same with every operation live at a share."""
    operations = {
        name: {**operation, "stage": "live", "percent": percent} for name, operation in content["operations"].items()
    }
    return {**content, "operations": operations}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as received."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    interim: list[Answer] = field(default_factory=list)
    """The 1xx answers but 100 that came before it."""

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Client:
    """One connection to the gateway, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, *, head: bool = False) -> Answer:
        """Sends a request as it is and reads one answer."""
        await self.send(data)
        return await self.answer(head=head)

    async def answer(self, *, head: bool = False) -> Answer:
        """Reads one answer."""
        interim: list[Answer] = []
        async with asyncio.timeout(30):
            while True:
                status, headers = await self._head()
                if not 100 < status < 200:
                    return Answer(status, headers, b"" if head else await self._body(status, headers), interim)
                interim.append(Answer(status, headers, b""))

    async def _head(self) -> tuple[int, dict[bytes, bytes]]:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = raw[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in lines)}
        return int(line.split(b" ")[1]), headers

    async def _body(self, status: int, headers: dict[bytes, bytes]) -> bytes:
        if status in (204, 304) or status < 200:
            return b""
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return body
        if b"content-length" in headers:
            return await self.reader.readexactly(int(headers[b"content-length"]))
        return await self.reader.read(-1)

    async def until(self, end: bytes) -> bytes:
        """What comes up to and including `end`."""
        async with asyncio.timeout(30):
            return await self.reader.readuntil(end)

    async def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        async with asyncio.timeout(30):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """What comes until the gateway closes."""
        async with asyncio.timeout(30):
            return await self.reader.read(-1)

    async def aclose(self) -> None:
        """Closes the connection."""
        self.writer.close()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    """A connection to a worker."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def get(path: str = "/items/1", *fields: str) -> bytes:
    """A GET."""
    return _message("GET", path, fields, b"")


def post(path: str, body: bytes, *fields: str, method: str = "POST") -> bytes:
    """A request with a body of known length."""
    return _message(method, path, (*fields, f"content-length: {len(body)}"), body)


def _message(method: str, path: str, fields: tuple[str, ...], body: bytes) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "host: shop.example", *fields, "", "")).encode() + body
