"""docs/configuration.md and config/gateway.yaml are what the models are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.settings import GatewaySettings, load_gateway_settings, load_migration
from gateway.settings.environment import variable_name
from gateway.settings.migration_file import MigrationShape
from gateway.settings.validation import leaves_of
from gateway.settings.yaml_source import read_yaml

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
CONFIG = ROOT / "config"


def test_the_shipped_gateway_file_says_every_setting_with_its_default() -> None:
    assert load_gateway_settings(CONFIG / "gateway.yaml", {}, {}) == GatewaySettings()
    said = read_yaml(CONFIG / "gateway.yaml").data
    for leaf in leaves_of(GatewaySettings):
        at: object = said
        for part in leaf.path:
            assert isinstance(at, dict)
            assert part in at, ".".join(map(str, leaf.path))
            at = at[part]


def test_the_page_has_a_row_for_every_setting_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| [^|]* \| `(CROSSFADE_[A-Z_]+)` \|", PAGE, re.MULTILINE))
    assert rows == {".".join(map(str, leaf.path)): variable_name(leaf.path) for leaf in leaves_of(GatewaySettings)}


def keys_of(model: type[BaseModel]) -> set[str]:
    """Every key of a model and of what it holds."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        for inner in re.findall(r"migration_file\.(\w+)", repr(field.annotation)):
            found |= keys_of(getattr(__import__(model.__module__, fromlist=[inner]), inner))
    return found


def test_the_page_names_every_key_of_the_migration_file() -> None:
    words = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`]+)`", PAGE))))
    assert keys_of(MigrationShape) - words == set()


def test_variables_of_the_services_are_named_on_the_page_and_let_pass() -> None:
    source = "".join(path.read_text() for path in (ROOT / "backends").rglob("*.py"))
    inside = {"CROSSFADE_TO_REMOTE", "CROSSFADE_FROM_REMOTE"}  # between a service and its own child
    for name in set(re.findall(r"CROSSFADE_[A-Z0-9_]+[A-Z0-9]", source)) - inside:
        assert f"`{name}`" in PAGE, name
        assert load_gateway_settings(None, {name: "x"}, {}) == GatewaySettings(), name


@pytest.mark.parametrize("name", ["two-services.yaml"])
def test_examples_load_without_a_warning(name: str) -> None:
    assert load_migration(CONFIG / "examples" / name).warnings == []
