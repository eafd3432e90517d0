"""Control, put together as in production, on a real Redis; asked over its real ASGI application."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.app import load_parts_migration
from gateway.control.acts import Acts
from gateway.control_adapters import StoredPolicy
from gateway.control_plane import ControlPlane
from gateway.core.feed_status import FeedState
from gateway.core.roles import Role
from gateway.parts import Parts
from gateway.settings import GatewaySettings
from gateway.state.connect import RedisClient, connect
from gateway.state.tokens import TokenStore, new_secret
from tests.support.redis_process import RedisProcess
from tests.support.waiting import until, until_async

Json = dict[str, Any]

HEADER_KEY = [["header:x-key"]]


def migration(**changes: Any) -> Json:
    """One group of each kind, and an operation without a group."""

    def operation(name: str, op_class: str, **more: Any) -> Json:
        return {"class": op_class, "match": {"rest": f"POST /{name}"}, **more}

    content: Json = {
        "migration": "git",
        "sides": {"old": {"instances": ["http://127.0.0.1:9"]}, "new": {"instances": ["http://127.0.0.1:10"]}},
        "groups": {
            "workspace": {"writes": "none", "key": HEADER_KEY},
            "store": {"writes": "shared", "key": HEADER_KEY},
            "ledger": {"writes": "dual", "key": HEADER_KEY},
        },
        "operations": {
            "work.read": operation("work.read", "read", group="workspace"),
            "work.write": operation("work.write", "write", group="workspace"),
            "store.read": operation("store.read", "read", group="store"),
            "store.write": operation("store.write", "write", group="store"),
            "ledger.read": operation("ledger.read", "read", group="ledger"),
            "ledger.write": operation("ledger.write", "write", group="ledger"),
            "alone": operation("alone", "read", key=HEADER_KEY),
        },
    }
    return {**content, **changes}


@dataclass
class Desk:
    """Control and callers of every role.

    Attributes:
        redis: The server.
        data_dir: Of this control.
        plane: Control.
        client: Asks it.
        tokens: Secrets by role; `machine` is this machine's own.
    """

    redis: RedisProcess
    data_dir: Path
    plane: ControlPlane
    client: httpx.AsyncClient
    parts: Parts
    side_client: RedisClient
    tokens: dict[str, str] = field(default_factory=dict)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str | None = "approver",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """Sends a request as somebody; None = nobody."""
        fields = {} if by is None else {"Authorization": f"Bearer {self.tokens[by]}"}
        if content is not None:
            fields["Content-Type"] = "application/json"
        return await self.client.request(
            method, path, json=body, content=content, headers={**fields, **(headers or {})}
        )

    @property
    def acts(self) -> Acts:
        """The steps of changes, on this control's store and feed."""
        return Acts(StoredPolicy(self.plane.state.store, self.plane.state.feed), self.plane.state.feed)

    async def status(self) -> Json:
        """What control says of itself."""
        answer = await self.ask("GET", "/v1/status", by="machine")
        assert answer.status_code == 200, answer.text
        content: Json = answer.json()
        return content

    async def go_live(self, *groups: str, percent: float = 50) -> None:
        """Brings groups to a share in `live`."""
        for group in groups or ("workspace",):
            body = {"stage": "live", "percent": percent, "reason": "test"}
            answer = await self.ask("PATCH", f"/v1/groups/{group}", body)
            assert answer.status_code == 200, answer.text

    async def lost(self) -> None:
        """Waits until control has noticed that Redis is away."""
        await until(lambda: self.plane.state.feed.status().state is FeedState.STALE, "stale")

    def rewrite(self, content: Json) -> None:
        """Replaces the migration file."""
        self.parts.migration_file.write_text(json.dumps(content))

    async def _is_ok(self) -> bool:
        answer = await self.ask("GET", "/v1/status", by="machine")
        return answer.status_code == 200 and answer.json()["state"] == "ok"

    async def recovered(self) -> None:
        """Waits until all is well."""
        await until_async(self._is_ok, "ok")


def prepare(data_dir: Path, redis_url: str, content: Json) -> Parts:
    """Writes the files that a supervisor would have written."""
    file = data_dir / "migration.yaml"
    file.write_text(json.dumps(content))
    token_file = data_dir / "token"
    if not token_file.exists():
        token_file.write_text(new_secret())
        token_file.chmod(0o600)
    parts = Parts(str(data_dir), redis_url, bootstrap_token_file=str(token_file))
    parts.migration_pointer.write_text(str(file))
    return parts


@asynccontextmanager
async def desk_on(
    redis: RedisProcess,
    data_dir: Path,
    content: Json | None = None,
    on_started: Callable[[Desk], Awaitable[None]] | None = None,
) -> AsyncIterator[Desk]:
    """Control that has booted, with a token of every role.

    Args:
        redis: The server.
        data_dir: Of this control.
        content: The migration, or None for the usual one.
        on_started: Called before control is expected to be prepared.
    """
    parts = prepare(data_dir, redis.url, content or migration())
    settings = GatewaySettings()
    plane = ControlPlane(parts, settings, load_parts_migration(parts, settings))
    side_client = connect(redis.url)
    transport = httpx.ASGITransport(app=plane.app, client=("127.0.0.1", 4242))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        desk = Desk(redis, data_dir, plane, client, parts, side_client)
        try:
            await plane.start()
            desk.tokens["machine"] = (data_dir / "token").read_text()
            if on_started is not None:
                await on_started(desk)
            await until(lambda: plane.is_prepared, "control is prepared")
            store = TokenStore(side_client, "git")
            for role in Role:
                await store.revoke(f"a-{role}")
                desk.tokens[str(role)] = await store.create(f"a-{role}", role)
            desk.tokens["stranger"] = new_secret()
            yield desk
        finally:
            await plane.aclose()
            await side_client.aclose()
