"""A steady stream of requests, bounded in time and count, that stops by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.sides import Client, get


@dataclass
class Load:
    """What clients saw.

    Attributes:
        answers: (began, status, body) of each request.
        failures: What went wrong otherwise.
    """

    answers: list[tuple[float, int, bytes]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    running: bool = True

    def failed(self) -> list[object]:
        """Everything that was not a 200."""
        return [*self.failures, *((status, body) for _, status, body in self.answers if status != 200)]


@asynccontextmanager
async def load(port: int, *, per_s: float = 200, clients: int = 8, limit_s: float = 60) -> AsyncIterator[Load]:
    """Runs while the block runs; each client keeps a connection and many keys."""
    seen = Load()
    deadline = time.monotonic() + limit_s

    async def ask(number: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            connection = Client(reader, writer)
            count = 0
            while seen.running and time.monotonic() < deadline:
                count += 1
                began = time.monotonic()
                answer = await connection.ask(get("/items/1", f"x-key: c{number}-{count}"))
                seen.answers.append((began, answer.status, answer.body))
                await asyncio.sleep(max(0.0, clients / per_s - (time.monotonic() - began)))
            writer.close()
        except (OSError, EOFError, TimeoutError) as exc:
            seen.failures.append(repr(exc))

    tasks = [asyncio.create_task(ask(number)) for number in range(clients)]
    try:
        yield seen
    finally:
        seen.running = False
        await asyncio.gather(*tasks)
