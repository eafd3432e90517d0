"""A small migration, its store and its feeds on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gateway.core.audit import AuditEntry
from gateway.core.model import (
    SCOPE_ALL,
    Definition,
    Epoch,
    Group,
    Instance,
    KeySource,
    KeySourceKind,
    Latch,
    LatchKind,
    Operation,
    OperationClass,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    Side,
    SideDefinition,
    Stage,
    Writes,
)
from gateway.state.connect import RedisClient, connect
from gateway.state.feed import FeedSettings, PolicyFeed
from gateway.state.policy_store import PolicyStore
from gateway.state.snapshot_file import SnapshotFile
from tests.support.redis_process import RedisProcess

OPERATIONS = ("git.status", "git.push")


def definition() -> Definition:
    """Two operations in one group that moves together."""
    sides = {side: SideDefinition(side, (Instance(f"http://{side}:1", str(side), 1),)) for side in Side}
    recipe = ((KeySource(KeySourceKind.HEADER, "x-key"),),)
    return Definition(
        migration="git",
        mcp_path=None,
        sides=sides,
        groups={"workspace": Group("workspace", Writes.NONE, recipe, "git:workspace", OPERATIONS)},
        operations={
            "git.status": Operation("git.status", OperationClass.READ, "workspace"),
            "git.push": Operation("git.push", OperationClass.WRITE, "workspace"),
        },
    )


def policy(epoch: int = 1, ppm: int = 0, lineage: str = "first") -> Policy:
    """Both operations live with one share."""
    each = OperationPolicy(Stage.LIVE, Ppm(ppm))
    return Policy("git", lineage, Epoch(epoch), operations=dict.fromkeys(OPERATIONS, each))


def latch(scope: Scope = SCOPE_ALL, reason: str = "errors", by: str = "ada") -> Latch:
    """A kill by hand."""
    return Latch(scope, LatchKind.KILL, reason, by, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def entry(action: str = "share") -> AuditEntry:
    """An audit entry."""
    return AuditEntry(
        "ada", "approver", action, "workspace", "because", {"percent": [0, 5]}, "r1", "2026-01-02T03:04:05Z"
    )


@dataclass
class Scene:
    """One Redis, one data directory, and whatever was opened on them."""

    redis: RedisProcess
    data_dir: Path
    feeds: list[PolicyFeed] = field(default_factory=list)
    clients: list[RedisClient] = field(default_factory=list)

    def client(self) -> RedisClient:
        """A client of the server."""
        client = connect(self.redis.url)
        self.clients.append(client)
        return client

    def store(self) -> PolicyStore:
        """A store with a client of its own."""
        return PolicyStore(self.client(), "git")

    def file(self, data_dir: Path | None = None) -> SnapshotFile:
        """The policy's copy on disk."""
        return SnapshotFile(data_dir or self.data_dir, "git")

    async def feed(self, name: str = "gateway-0", data_dir: Path | None = None, **rhythm: float) -> PolicyFeed:
        """A feed that has started."""
        where = data_dir or self.data_dir
        feed = PolicyFeed(self.store(), definition(), where, self.file(where), FeedSettings(name, **rhythm))
        self.feeds.append(feed)
        await feed.start()
        return feed

    async def aclose(self) -> None:
        """Closes what was opened."""
        for feed in self.feeds:
            await feed.aclose()
        for client in self.clients:
            await client.aclose()


@contextmanager
def _kept(redis: RedisProcess) -> Iterator[None]:
    try:
        yield
    finally:
        redis.stop()


@asynccontextmanager
async def scene_on(redis: RedisProcess, data_dir: Path) -> AsyncIterator[Scene]:
    """A scene that is cleaned up, whatever state Redis is left in."""
    scene = Scene(redis, data_dir)
    with _kept(redis):
        try:
            yield scene
        finally:
            await scene.aclose()
