"""A break-glass key that names nothing is found and said."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.control_stray_keys import StrayKeys
from gateway.state.policy_store import STRAYS_LIMIT
from tests.integration.state.scene import Scene


async def test_a_key_that_names_nothing_is_said_once(scene: Scene) -> None:
    strays = StrayKeys(scene.store(), await scene.feed())
    client = scene.client()
    await client.set("cf:git:kill:group:workspce", "a slip")
    await client.rpush("cf:git:kill:\x1b[2Jeverything", "a list")
    await client.mset({"cf:git:kill:all": "meant", "cf:git:kill:operation:git.push": "meant"})
    await client.set("cf:other:kill:group:elsewhere", "of another migration")
    with capture_logs() as logs:
        await strays.look()
        await strays.look()
    names = ["cf:git:kill:\N{REPLACEMENT CHARACTER}[2Jeverything", "cf:git:kill:group:workspce"]
    assert [entry["keys"] for entry in logs if entry["event"] == "break_glass_unknown"] == [names]
    assert [note.split(" kills nothing")[0] for note in strays.notes] == [f"the key {name}" for name in names]
    await client.flushall()
    await strays.look()
    assert strays.notes == []


async def test_what_is_shown_of_such_keys_is_bounded(scene: Scene) -> None:
    await scene.client().mset({f"cf:git:kill:{n}{'x' * 500}": "r" for n in range(STRAYS_LIMIT + 5)})
    strays = StrayKeys(scene.store(), await scene.feed())
    await strays.look()
    assert len(strays.names) == STRAYS_LIMIT
    assert max(map(len, strays.notes)) < 250
