"""Accepted noise in Redis: formats, versions, and who keeps it as it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.core.compare.rules import Relax
from gateway.state.noise import AcceptedNoise, NoiseStore
from tests.integration.state.scene import Scene

KEY = "cf:git:noise"
BOTH = {"git.log": {"$.at": Relax.SHAPE | Relax.PRESENCE, "$.{}": Relax.NULL}}


def store_of(scene: Scene) -> NoiseStore:
    return NoiseStore(scene.client(), "git")


async def put(scene: Scene, document: dict[str, Any]) -> None:
    await scene.client().set(KEY, json.dumps(document))


async def test_several_relaxations_of_a_part_are_kept(scene: Scene) -> None:
    store = store_of(scene)
    assert await store.read() == AcceptedNoise()
    after = await store.replace(AcceptedNoise(), BOTH)
    assert after == await store.read() == AcceptedNoise(1, BOTH)
    assert await store.replace(AcceptedNoise(), {}) is None


async def test_what_an_earlier_version_wrote_is_read(scene: Scene) -> None:
    """It knew one relaxation a part, and had one word for any member and for a name that is data."""
    await put(scene, {"version": 3, "relaxed": {"git.log": {"$.at": "shape", "$.*.x[*].*": "order", "$.a*": "shape"}}})
    read = await store_of(scene).read()
    assert read == AcceptedNoise(
        3, {"git.log": {"$.at": Relax.SHAPE, "$.{}.x[*].{}": Relax.ORDER, "$.a*": Relax.SHAPE}}
    )


async def test_what_a_later_version_wrote_relaxes_nothing(scene: Scene) -> None:
    await put(scene, {"version": 3, "format": 9, "relaxed": {"git.log": {"$.at": ["shape"]}}})
    assert await store_of(scene).read() == AcceptedNoise(3)


@pytest.mark.parametrize("frozen", [[], {"a": "x"}, 5])
async def test_a_damaged_flag_is_no_relaxation(scene: Scene, frozen: Any) -> None:
    await put(scene, {"version": 3, "format": 2, "relaxed": {}, "frozen": frozen})
    assert (await store_of(scene).read()).relaxed == {}


async def test_whoever_reads_it_keeps_it_as_it_is_until_it_is_done(scene: Scene) -> None:
    store = store_of(scene)
    before = await store.replace(AcceptedNoise(), BOTH)
    assert before is not None
    frozen = await store.freeze("gate a", 100.0)
    assert (frozen.relaxed, frozen.frozen_by(99.0), frozen.frozen_by(100.0)) == (BOTH, "gate a", None)
    # A change that began before is too late.
    assert await store.replace(before, {}) is None
    await store.freeze("gate b", 50.0)
    thawed = await store.thaw("gate a")
    assert (thawed.frozen_by(49.0), thawed.frozen_by(51.0)) == ("gate b", None)
    assert await store.thaw("gate a") == thawed
    assert (await store.replace(thawed, {})) is not None


async def test_all_who_freeze_at_once_succeed(scene: Scene) -> None:
    store = store_of(scene)
    await asyncio.gather(*(store.freeze(f"gate {n}", 100.0) for n in range(8)))
    assert set((await store.read()).frozen) == {f"gate {n}" for n in range(8)}
