"""Loads a migration file: read, check, compile. The one entry for everybody who needs a definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.core.file_policy import FilePolicy
from gateway.core.model import Deadlines, Definition, Instance
from gateway.settings.addresses import BUNDLED_SERVICES
from gateway.settings.compile import Surroundings, compile_migration
from gateway.settings.findings import Findings
from gateway.settings.migration_file import STAND_INS, MigrationShape
from gateway.settings.validation import validate
from gateway.settings.yaml_source import Document, read_yaml


@dataclass(frozen=True, slots=True)
class LoadedMigration:
    """A migration file that can be used.

    Attributes:
        definition: What the file says.
        policy: What the file wishes of the policy.
        warnings: One line for each thing that is allowed and probably not meant.
        path: The file.
    """

    definition: Definition
    policy: FilePolicy
    warnings: list[str]
    path: Path


def load_migration(
    path: Path, bundled: Mapping[str, tuple[Instance, ...]] | None = None, deadlines: Deadlines | None = None
) -> LoadedMigration:
    """Loads a migration file.

    Args:
        path: The file.
        bundled: Addresses of the bundled services that run, by service name: `{"approach1": (Instance(…),)}`. A
            service that is not named stays a placeholder, `addresses.is_placeholder`.
        deadlines: For the phases that the file does not set.

    Raises:
        SettingsError: With everything that is wrong. Nothing has happened.
        ValueError: `bundled` names a service that does not exist.
    """
    return compile_document(read_yaml(path), path, bundled, deadlines)


def compile_document(
    document: Document,
    path: Path,
    bundled: Mapping[str, tuple[Instance, ...]] | None = None,
    deadlines: Deadlines | None = None,
) -> LoadedMigration:
    """As `load_migration`, for a document that was read already.

    Raises:
        SettingsError: With everything that is wrong.
        ValueError: `bundled` names a service that does not exist.
    """
    unknown = set(bundled or ()) - set(BUNDLED_SERVICES)
    if unknown:
        raise ValueError(f"bundled services are {', '.join(BUNDLED_SERVICES)}, not {', '.join(sorted(unknown))}")
    validated = validate(MigrationShape, document.data, STAND_INS)
    findings = Findings(document, validated.faults)
    if validated.value is None:
        findings.raise_errors()
    assert validated.value is not None
    around = Surroundings(bundled or {}, deadlines or Deadlines())
    definition, policy = compile_migration(validated.value, findings, around)
    findings.raise_errors()
    return LoadedMigration(definition, policy, findings.warnings, path)
