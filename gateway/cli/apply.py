"""`crossfade apply`: makes a migration file current: its definition on this machine, its policy everywhere.

What would change is shown and confirmed first; what is then stored is what was confirmed, or nothing. `--restore` puts
back a policy that Redis lost.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.command import asks_control
from gateway.cli.connection import Control
from gateway.cli.reload import Reload
from gateway.cli.shown import CommandError, Shown, plain, warn
from gateway.core.file_policy import FilePolicy, PolicyField
from gateway.core.model import GroupPolicy, OperationPolicy
from gateway.core.percent import percent_of
from gateway.parts import Parts
from gateway.settings import LoadedMigration, SettingsError, load_migration
from gateway.settings.addresses import parse_instance
from gateway.settings.gateway_file import GatewaySettings

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]

_PATH: Final = "/v1/apply"


@asks_control
def apply_command(
    control: Control,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The migration file.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and stop.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="Jump over stages on the way forward.")] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put back the policy that control remembers, after Redis lost it.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; stands in the audit.")] = None,
) -> Shown:
    """Make a migration file current, or put a lost policy back. Needs an approver."""
    if restore == (file is not None):
        raise typer.BadParameter("name a FILE, or say --restore")
    if not (yes or dry_run or sys.stdin.isatty()):
        raise typer.BadParameter("nobody can be asked here; say --yes or --dry-run")
    if file is None:
        return _restore(control, reason or "", is_sure=yes)
    return _Application(control, file, skip=skip, reason=reason or f"apply {file.name}").run(yes=yes, dry_run=dry_run)


def _restore(control: Control, reason: str, *, is_sure: bool) -> Shown:
    status = control.get("/v1/status")
    warn(plain(f"control remembers epoch {status['epoch']} of {status['migration']}; state {status['state']}"))
    if not is_sure and not typer.confirm("put it back?", err=True):
        raise CommandError("failed", "nothing was changed")
    body: Document = {"restore": True, **({"reason": reason} if reason else {})}
    restored = control.send("POST", _PATH, body)
    return Shown(restored, lambda out: out.print(f"restored; epoch {restored['epoch']}"))


class _Application:
    """One file on its way to being current."""

    def __init__(self, control: Control, file: Path, *, skip: bool, reason: str) -> None:
        self._control = control
        self._file = file.absolute()
        self._loaded = _load(self._file, control)
        self._status = control.get("/v1/status")
        self._skip = skip
        self._reason = reason
        migration = self._loaded.definition.migration
        if migration != self._status["migration"]:
            why = f"{file} is migration {migration}; control runs {self._status['migration']}"
            raise CommandError("failed", why)

    def run(self, *, yes: bool, dry_run: bool) -> Shown:
        """Shows, asks, applies."""
        for warning in self._loaded.warnings:
            warn(plain(f"warning: {warning}"))
        planned = self._send(dry_run=True)
        changes_definition = self._loaded.definition.digest != self._status["definition"]
        document = self._document(planned, is_applied=False)
        if dry_run:
            return Shown(document, lambda out: _print(out, document))
        if not yes:
            from rich.console import Console

            _print(Console(stderr=True, highlight=False, markup=False, soft_wrap=True), document)
            if not typer.confirm("make this current?", err=True):
                raise CommandError("failed", "nothing was changed")
        if self._control.runtime is not None:
            Reload(self._control, self._file).perform(self._loaded.definition.digest, is_needed=changes_definition)
        elif changes_definition:
            warn("control is not on this machine: each machine reads the definition from its own migration file")
        applied = self._store(planned)
        document = self._document(applied, is_applied=True)
        return Shown(document, lambda out: _print(out, document))

    def _store(self, planned: Document) -> Document:
        """Stores the policy if it changes what was confirmed, and nothing else."""
        # Anew: operations that are new in the file have been adopted by now, and the epoch has moved with them.
        again = self._send(dry_run=True)
        # What adoption did by itself is not left to do; anything beyond what was confirmed is somebody else's change.
        surprises = {name for name, delta in again["changed"].items() if planned["changed"].get(name) != delta}
        if surprises:
            raise CommandError(
                "stale_epoch",
                f"the policy was changed meanwhile ({', '.join(sorted(surprises))}); it is as it was; apply again",
            )
        return self._send(dry_run=False, epoch=again["epoch"])

    def _send(self, *, dry_run: bool, epoch: int | None = None) -> Document:
        known = self._control.get("/v1/status")
        body: Document = {"policy": _wishes(self._loaded.policy, known), "reason": self._reason, "dry_run": dry_run}
        if self._skip:
            body["skip"] = True
        return self._control.send("POST", _PATH, body, epoch=epoch)

    def _document(self, answer: Document, *, is_applied: bool) -> Document:
        before, after = self._status["definition"], self._loaded.definition.digest
        known = set(self._status["operations"])
        return {
            "applied": is_applied,
            "epoch": answer["epoch"],
            "changed": answer["changed"],
            "definition": {
                "before": before,
                "after": after if self._control.runtime is not None else before,
                "new_operations": sorted(set(self._loaded.definition.operations) - known),
                "gone_operations": sorted(known - set(self._loaded.definition.operations)),
            },
        }


def _load(file: Path, control: Control) -> LoadedMigration:
    """The file as the processes of this machine will read it."""
    bundled, deadlines = {}, None
    if control.runtime is not None:
        parts = Parts.read(control.place.directory / "parts.json")
        bundled = {name: (parse_instance(url),) for name, url in parts.bundled.items()}
        deadlines = GatewaySettings.model_validate(parts.settings).default_deadlines
    try:
        return load_migration(file, bundled, deadlines)
    except SettingsError as exc:
        problems = [str(problem) for problem in exc.problems]
        raise CommandError("invalid_file", str(exc), {"code": "invalid_file", "problems": problems}) from exc


def _wishes(policy: FilePolicy, status: Document) -> Document:
    """What the file says of what control knows; the rest is adopted with the definition."""
    operations = {
        name: _said_of_operation(policy.operations[name], said)
        for name, said in policy.said_of_operations.items()
        if said and name in status["operations"]
    }
    groups = {
        name: _said_of_group(policy.groups[name], said)
        for name, said in policy.said_of_groups.items()
        if said and name in status["groups"]
    }
    return {"operations": operations, "groups": groups}


def _said_of_operation(wished: OperationPolicy, said: frozenset[PolicyField]) -> Document:
    every = {
        PolicyField.STAGE: wished.stage.value,
        PolicyField.PERCENT: percent_of(wished.percent),
        PolicyField.MIRROR_PERCENT: percent_of(wished.mirror),
    }
    return {field.value: value for field, value in every.items() if field in said}


def _said_of_group(wished: GroupPolicy, said: frozenset[PolicyField]) -> Document:
    every = {
        PolicyField.DUAL_PERCENT: percent_of(wished.dual),
        PolicyField.ALLOW: sorted(wished.allow),
        PolicyField.DENY: sorted(wished.deny),
    }
    return {field.value: value for field, value in every.items() if field in said}


def _print(out: Console, document: Document) -> None:
    from rich.table import Table

    definition = document["definition"]
    is_same = definition["before"] == definition["after"]
    moved = "unchanged" if is_same else f"{definition['before'][:12]} -> {definition['after'][:12]}"
    out.print(f"definition: {moved}")
    for field in ("new_operations", "gone_operations"):
        if definition[field]:
            out.print(plain(f"  {field.replace('_', ' ')}: {', '.join(definition[field])}"))
    if not document["changed"]:
        out.print("policy: unchanged")
    else:
        table = Table("policy", "is" if not document["applied"] else "was", "file", box=None)
        for name, delta in document["changed"].items():
            table.add_row(*map(plain, (name, delta["before"], delta["after"])))
        out.print(table)
    out.print(f"{'applied' if document['applied'] else 'not applied'}; epoch {document['epoch']}")
