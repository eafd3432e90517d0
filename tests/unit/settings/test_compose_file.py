"""The file for docker compose is the shipped one with other addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.settings import load_migration

CONFIG = Path(__file__).parents[3] / "config"


def test_only_the_addresses_differ() -> None:
    shipped = load_migration(CONFIG / "migration.yaml")
    compose = load_migration(CONFIG / "compose" / "migration.yaml")
    addresses = [instance.name for side in compose.definition.sides.values() for instance in side.instances]
    assert addresses == ["http://approach1:9001", "http://approach2:9002"]
    sides = {
        side: replace(definition, instances=shipped.definition.sides[side].instances)
        for side, definition in compose.definition.sides.items()
    }
    assert replace(compose.definition, sides=sides, digest="") == replace(shipped.definition, digest="")
    assert compose.policy == shipped.policy
