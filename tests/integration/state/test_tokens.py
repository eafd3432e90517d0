"""Operator tokens: stored as digests, shown once, gone when revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.roles import Role
from gateway.errors import TokenExistsError
from gateway.state.tokens import TokenStore, new_secret
from tests.integration.state.scene import Scene


def store(scene: Scene) -> TokenStore:
    return TokenStore(scene.client(), "git")


async def test_a_secret_is_found_and_others_are_not(scene: Scene) -> None:
    tokens = store(scene)
    secret = await tokens.create("ada", Role.OPERATOR)
    found = await tokens.find(secret)
    assert found is not None
    assert (found.name, found.role) == ("ada", Role.OPERATOR)
    for wrong in ("", secret[:-1], secret + "a", secret.upper(), new_secret()):
        assert await tokens.find(wrong) is None


async def test_redis_never_holds_a_secret(scene: Scene) -> None:
    secret = await store(scene).create("ada", Role.OPERATOR)
    assert secret.startswith("cf_")
    stored = await scene.client().hgetall("cf:git:tokens")
    assert secret not in repr(stored)
    assert secret.removeprefix("cf_") not in repr(stored)


async def test_a_revoked_token_is_gone_at_once(scene: Scene) -> None:
    tokens = store(scene)
    secret = await tokens.create("ada", Role.APPROVER)
    assert await tokens.revoke("ada")
    assert await tokens.find(secret) is None
    assert not await tokens.revoke("ada")


async def test_an_expired_token_is_unknown(scene: Scene) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    tokens = TokenStore(scene.client(), "git", lambda: now)
    secret = await tokens.create("ada", Role.VIEWER, now + timedelta(hours=1))
    assert await tokens.find(secret) is not None
    now += timedelta(hours=1)
    assert await tokens.find(secret) is None


async def test_a_name_is_taken_once(scene: Scene) -> None:
    tokens = store(scene)
    await tokens.create("ada", Role.VIEWER)
    with pytest.raises(TokenExistsError):
        await tokens.create("ada", Role.OPERATOR)


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\n", "ä", "x" * 65])
async def test_odd_names_are_refused(scene: Scene, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        await store(scene).create(name, Role.VIEWER)


async def test_a_token_that_was_made_elsewhere_replaces_the_one_before(scene: Scene) -> None:
    tokens = store(scene)
    first, second = new_secret(), new_secret()
    await tokens.ensure(first, "up", Role.APPROVER)
    await tokens.ensure(second, "up", Role.APPROVER)
    assert await tokens.find(first) is None
    assert await tokens.find(second) is not None
    assert [info.name for info in await tokens.list()] == ["up"]
