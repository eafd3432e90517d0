"""`crossfade check-config`: what a migration file means, or everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.command import shows
from gateway.cli.shown import CommandError, Shown, plain

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.core.model import Deadlines, Operation, SideDefinition
    from gateway.settings import LoadedMigration


@shows
def check_config_command(
    file: Annotated[
        Path | None, typer.Argument(help="The migration file; else config/migration.yaml here, else the shipped one.")
    ] = None,
) -> Shown:
    """Check a migration file and show what it means."""
    from gateway.settings import SettingsError, load_migration, locate_migration

    try:
        loaded = load_migration(locate_migration(file))
    except SettingsError as exc:
        problems = [{"file": p.file, "line": p.line, "path": p.path, "message": p.message} for p in exc.problems]
        document = {"code": "invalid_configuration", "detail": str(exc), "problems": problems}
        raise CommandError("invalid_configuration", str(exc), document) from exc
    except FileNotFoundError as exc:
        raise CommandError("not_found", str(exc)) from exc
    document = _document(loaded)
    return Shown(document, lambda out: _print(out, document))


def _document(loaded: LoadedMigration) -> dict[str, Any]:
    from gateway.core.percent import percent_of

    definition, policy = loaded.definition, loaded.policy
    return {
        "file": str(loaded.path),
        "migration": definition.migration,
        "digest": definition.digest,
        "mcp": {"path": definition.mcp_path, "stateless": definition.mcp_stateless} if definition.mcp_path else None,
        "sides": {side.value: _side(found) for side, found in definition.sides.items()},
        "groups": {
            name: {
                "writes": group.writes.value,
                "independent": group.independent,
                "salt": group.salt,
                "key": [[str(source) for source in recipe] for recipe in group.recipes],
                "dual_percent": percent_of(policy.groups[name].dual),
                "allow": sorted(policy.groups[name].allow),
                "deny": sorted(policy.groups[name].deny),
                "operations": list(group.operations),
            }
            for name, group in definition.groups.items()
        },
        "operations": {
            name: {
                **_operation(operation),
                "stage": policy.operations[name].stage.value,
                "percent": percent_of(policy.operations[name].percent),
                "mirror_percent": percent_of(policy.operations[name].mirror),
            }
            for name, operation in definition.operations.items()
        },
        "default": {
            "class": definition.default.op_class.value,
            "side": definition.default.side.value,
            "deadlines": _deadlines(definition.default.deadlines),
            "body_limit": definition.default.body_limit_bytes,
        },
        "deny_paths": list(definition.deny_paths),
        "trusted_proxies": [str(network) for network in definition.trusted_proxies],
        "thresholds": {
            "error_rate": definition.thresholds.error_rate,
            "p95_ratio": definition.thresholds.p95_ratio,
            "consistency": definition.thresholds.consistency,
            "profile": definition.thresholds.profile,
            "window_s": definition.thresholds.window_s,
            "min_samples": definition.thresholds.min_samples,
        },
        "steps_percent": [percent_of(step) for step in definition.steps],
        "warnings": list(loaded.warnings),
    }


def _side(side: SideDefinition) -> dict[str, Any]:
    health = side.health
    return {
        "instances": [instance.name for instance in side.instances],
        "balance": side.balance.value,
        "host": side.host,
        "ca_file": side.ca_file,
        "health": {"path": health.path, "interval_s": health.interval_s} if health else None,
    }


def _operation(operation: Operation) -> dict[str, Any]:
    from gateway.core.model import SERVER_ERRORS

    return {
        "class": operation.op_class.value,
        "group": operation.group,
        "rest": [str(match) for match in operation.rest],
        "mcp": operation.mcp,
        "deadlines": _deadlines(operation.deadlines),
        "body_limit": operation.body_limit_bytes,
        "strict": operation.strict,
        "failure_codes": sorted(operation.failure_codes),
        "failure_statuses": None if operation.failure_statuses == SERVER_ERRORS else sorted(operation.failure_statuses),
    }


def _deadlines(deadlines: Deadlines) -> dict[str, float | None]:
    return {
        "connect_s": deadlines.connect_s,
        "send_s": deadlines.send_s,
        "first_byte_s": deadlines.first_byte_s,
        "between_bytes_s": deadlines.between_bytes_s,
        "total_s": deadlines.total_s,
    }


def _print(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    out.print(plain(f"{document['file']} is right: migration {document['migration']}"))
    sides = Table("side", "instances", "balance", box=None)
    for name, side in document["sides"].items():
        sides.add_row(plain(name), plain(", ".join(side["instances"])), plain(side["balance"]))
    groups = Table("group", "writes", "salt", "key: the first that yields every part", box=None)
    for name, group in document["groups"].items():
        key = " | ".join("/".join(recipe) for recipe in group["key"])
        groups.add_row(*map(plain, (name, group["writes"], group["salt"], key)))
    operations = Table("operation", "class", "group", "matches", "total s", "stage", "percent", box=None)
    for name, operation in document["operations"].items():
        matches = ", ".join([*operation["rest"], *([f"tool {operation['mcp']}"] if operation["mcp"] else [])])
        total = operation["deadlines"]["total_s"]
        cells = (name, operation["class"], operation["group"], matches, total, operation["stage"], operation["percent"])
        operations.add_row(*map(plain, cells))
    for table in (sides, groups, operations):
        out.print(table)
    out.print(plain(f"whatever else: {document['default']['side']}"))
    for warning in document["warnings"]:
        out.print(plain(f"warning: {warning}"))
