"""docs/configuration.md and config/gateway.yaml are what the models are: names, defaults, variables, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.core.model import Ppm
from gateway.core.percent import percent_of
from gateway.settings import GatewaySettings, load_gateway_settings, load_migration
from gateway.settings.environment import OTHERS, variable_name
from gateway.settings.migration_file import MigrationShape
from gateway.settings.validation import leaves_of
from gateway.settings.yaml_source import read_yaml

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config"
SECTIONS = dict(
    re.findall(r"^## (.+)\n([^\0]*?)(?=^## |\Z)", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
)


def rows_of(section: str) -> Iterator[list[str]]:
    """The cells of every row of the section's table, its head left out."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def names_in(cell: str) -> list[str]:
    """The names of a cell; one that begins with a dot is a neighbour of the one before it."""
    names: list[str] = []
    for name in re.findall(r"`([^`]+)`", cell):
        names.append(names[-1].rpartition(".")[0] + name if name.startswith(".") else name)
    return names


def shown(value: object) -> str:
    """A default as the page shows it."""
    match value:
        case Enum():
            return str(value.value)
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int() | float():
            return f"{value:.10g}"
        case _:
            return "(empty)" if str(value) == "embedded" else str(value)


def test_the_shipped_gateway_file_says_every_setting_with_its_default() -> None:
    assert load_gateway_settings(CONFIG / "gateway.yaml", {}, {}) == GatewaySettings()
    said = read_yaml(CONFIG / "gateway.yaml").data
    for leaf in leaves_of(GatewaySettings):
        at: object = said
        for part in leaf.path:
            assert isinstance(at, dict)
            assert part in at, ".".join(map(str, leaf.path))
            at = at[part]


def test_the_page_has_every_setting_of_a_gateway_with_its_default_and_variable_and_no_other() -> None:
    expected = {}
    for leaf in leaves_of(GatewaySettings):
        value: object = GatewaySettings()
        for part in leaf.path:
            value = getattr(value, str(part))
        expected[".".join(map(str, leaf.path))] = (shown(value), variable_name(leaf.path))
    found = {
        names_in(name)[0]: (default, *names_in(variable)) for name, default, variable, _ in rows_of("The gateway file")
    }
    assert found == expected


def fields_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every single value of a model by its path, `*` for names that the file chooses."""
    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        models = [kind for kind in inner if issubclass(kind, BaseModel)]
        if models:
            star = ".*" if get_origin(field.annotation) in (dict, list) else ""
            yield from fields_of(models[0], f"{here}{star}.")
        else:
            yield re.sub(r"^sides\.(old|new)\.", "sides.*.", here), field


def default_of(field: FieldInfo) -> str | None:
    """How the page must show a default; None where it may say in words what stands in for a missing value."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default in (None, []):
        return None
    if isinstance(default, list):
        return ", ".join(str(percent_of(Ppm(v))) if not isinstance(v, str) else f"`{v}`" for v in default)
    return shown(default)


def test_the_page_has_every_key_of_the_migration_file_with_its_default_and_no_other() -> None:
    found: dict[str, str] = {}
    for cell, default, _ in rows_of("The migration file"):
        names = names_in(cell)
        each = default.split(", ")
        found.update(zip(names, each, strict=True) if len(each) == len(names) > 1 else dict.fromkeys(names, default))
    assert (found.pop("sides.old"), found.pop("sides.new")) == ("required", "required")
    expected = dict(fields_of(MigrationShape))
    assert found.keys() == expected.keys()
    for name, field in expected.items():
        wanted = default_of(field)
        assert found[name] == wanted or (wanted is None and found[name] != "required"), name


def test_the_page_has_every_variable_that_is_no_setting_and_no_other() -> None:
    listed = {name for names, *_ in rows_of("Other variables") for name in names_in(names)}
    source = "".join(path.read_text() for top in ("gateway", "backends") for path in (ROOT / top).rglob("*.py"))
    inside = {"CROSSFADE_TO_REMOTE", "CROSSFADE_FROM_REMOTE"}  # between a service and its own child
    services = "".join(path.read_text() for path in (ROOT / "backends").rglob("*.py"))
    settings = {"CROSSFADE_REDIS_URL"}  # a setting of the gateway, which approach 2 reads as well
    assert set(re.findall(r"CROSSFADE_[A-Z0-9_]+[A-Z0-9]", services)) - inside - settings <= listed
    assert listed >= OTHERS
    assert {name for name in listed if name not in source} == set()
    assert load_gateway_settings(None, dict.fromkeys(listed, "x"), {}) == GatewaySettings()


def test_every_example_loads_without_a_warning() -> None:
    examples = sorted((CONFIG / "examples").glob("*.yaml"))
    assert [example.name for example in examples] == ["two-services.yaml"]
    for example in examples:
        assert load_migration(example).warnings == []


def test_the_example_for_two_services_is_what_its_comments_say() -> None:
    loaded = load_migration(CONFIG / "examples" / "two-services.yaml")
    definition = loaded.definition
    assert {side.value: [i.name for i in s.instances] for side, s in definition.sides.items()} == {
        "old": ["http://127.0.0.1:9001"],
        "new": ["http://127.0.0.1:9002"],
    }
    assert [str(source) for source in definition.groups["cart"].recipes[0]] == ["header:x-user-id"]
    assert len(definition.operations) == 2
