"""A worker that mirrors every read of two stub sides."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import Side
from tests.support.raw_upstream import Peer, RawRequest, answer
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.sides import StubSide, migration, stub_sides
from tests.support.worker import Bench, WorkerProcess, bench

Respond = Callable[[RawRequest], bytes]


@dataclass
class JsonSide:
    """What a stub side answers, as JSON, and the copies that it got."""

    stub: StubSide
    respond: Respond | None = None
    content: Any = field(default_factory=lambda: {"a": 1})

    def __post_init__(self) -> None:
        self.stub.script = self.serve

    async def serve(self, peer: Peer) -> None:
        while True:
            request = await peer.receive_request()
            self.stub.requests.append(request)
            if self.respond is not None:
                await peer.send(self.respond(request))
            else:
                await peer.send(answer(json.dumps(self.content).encode(), b"content-type: application/json"))

    @property
    def copies(self) -> list[RawRequest]:
        return [request for request in self.stub.requests if request.field(b"crossfade-copy")]


@pytest.fixture
async def stubs() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
def old(stubs: dict[Side, StubSide]) -> JsonSide:
    return JsonSide(stubs[Side.OLD])


@pytest.fixture
def new(stubs: dict[Side, StubSide]) -> JsonSide:
    return JsonSide(stubs[Side.NEW])


@pytest.fixture
def redis() -> RedisProcess:  # type: ignore[misc]  # a generator, as pytest has them
    with running_redis() as process:
        yield process


def mirrored(stubs: dict[Side, StubSide], **more: Any) -> dict[str, Any]:
    """The migration file: every read in `shadow_read`, all of them mirrored."""
    content = migration(stubs)
    for operation in content["operations"].values():
        operation["stage"] = "shadow_read"
        if operation["class"] == "read":
            operation["mirror_percent"] = 100
    return {**content, **more}


QUICK = {"lag_s": 0.2, "noise_percent": 0}


@pytest.fixture
async def place(
    tmp_path: Path, stubs: dict[Side, StubSide], old: JsonSide, new: JsonSide, redis: RedisProcess
) -> AsyncIterator[Bench]:
    async with bench(tmp_path, redis.url, mirrored(stubs), shadow=QUICK) as place:
        place.prepare({"internal_token": "internal", "force_secret": "force"})
        await place.boot()
        yield place


@pytest.fixture
async def worker(place: Bench) -> WorkerProcess:
    return await place.start()
